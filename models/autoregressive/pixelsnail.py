"""PixelSNAIL: masked convolutions, and attention to all earlier pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ppvae.arguments import Few, Levels, Natural, Size, Sizes, checked
from ppvae.models.autoregressive.pixel_network import FirstLayer, PixelNetwork
from ppvae.models.autoregressive.pixelcnn import MaskedResidualBlock
from ppvae.models.autoregressive.rasters import MaskedConv2d, Strip


class PixelSNAIL(PixelNetwork):
    """Logits of each pixel given all earlier ones, by attention between masked convolutions.

    Each block is a convolution of near pixels and attention to all earlier ones: whatever the image's size, there is no
    limit to what is seen, and no blind spot. It takes memory, and time, by the square of the number of pixels. This is
    smaller than the source's: one convolution a block, and no dropout.

    Source: Chen et al. 2018 (arXiv:1712.09763).

    Args:
        shape: `(C, H, W)` of images of gray levels or bits, or `(H, W)` of maps of codes.
        levels: L; data are `k / (L - 1)`, or codes 0 ... L - 1.
        width: channels of the features; a multiple of 2 C, and of C times the heads.
        num_blocks: of a convolution and attention each.
        num_heads: of the attention to each channel of the data.
        radius: how many rows above, and columns to each side, the first convolution sees.
        block_radius: the same of the blocks' convolutions.
        num_condition: channels of the condition, a map `[*, num_condition, H, W]` or `[*, num_condition, 1, 1]`; 0
            for none.

    Raises:
        ValueError: a shape of neither kind, or a width that is no such multiple.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(PixelSNAIL((1, 8, 8), levels=2, width=8, num_blocks=1, num_heads=2))
        >>> p.sample((3,)).shape
        torch.Size([3, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        shape: Sizes,
        levels: Levels = 256,
        width: Size = 64,
        num_blocks: Natural = 3,
        num_heads: Few = 4,
        radius: Natural = 3,
        block_radius: Natural = 1,
        num_condition: Natural = 0,
    ):
        super().__init__(shape, levels, width, num_condition)
        C = self.num_channels
        if width % (num_heads * C):
            raise ValueError(
                f"width: found {width}, expected a multiple of {num_heads * C}, num_heads for each channel of the data"
            )
        self.first = FirstLayer(self, radius)
        self.convolutions = nn.ModuleList(
            MaskedResidualBlock(width, block_radius, C, num_condition) for _ in range(num_blocks)
        )
        self.attentions = nn.ModuleList(
            CausalAttention(width, self.num_inputs, C, num_heads) for _ in range(num_blocks)
        )

    def features(self, inputs: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        features = self.first(inputs, h, at)
        for near, far in zip(self.convolutions, self.attentions, strict=True):
            features = far(near(features, h, at), inputs, at)
        return features


@dataclass(frozen=True)
class _Seen:
    """What attention keeps while an image is drawn: keys and values of earlier pixels, `[N, heads, 1 + i, d]`, and the
    features of pixel i, which has neither until it is drawn."""

    pixel: int
    features: Tensor
    keys: Tensor
    values: Tensor


class CausalAttention(nn.Module):
    """Features added to by what attention finds in the data and features of earlier pixels, or in none of them.

    A head belongs to a channel of the data: its query is made of the features that this channel may see.

    Args:
        width: channels of the features.
        num_inputs: channels of the encoded data.
        num_channels: C, of the data.
        num_heads: for each of these.
    """

    def __init__(self, width: int, num_inputs: int, num_channels: int, num_heads: int):
        super().__init__()
        self.query = MaskedConv2d(width, width, num_channels=num_channels)
        self.key_and_value = nn.Conv2d(width + num_inputs, 2 * width, 1)
        self.out = MaskedConv2d(width, width, num_channels=num_channels)
        self.num_channels, self.num_heads = num_channels, num_heads

    def forward(self, features: Tensor, inputs: Tensor, at: Strip | None) -> Tensor:
        query = self._by_head(self.query(features))
        if at is None:
            keys, values = (pad(t, (0, 0, 1, 0)) for t in self._keys_and_values(features, inputs))
            earlier = torch.ones(query.shape[-2], keys.shape[-2], dtype=torch.bool, device=query.device).tril()
            found = scaled_dot_product_attention(query, keys, values, attn_mask=earlier)
        else:
            seen = self._seen(features, inputs, at)
            found = scaled_dot_product_attention(query, seen.keys, seen.values)
        by_channel = found.transpose(-1, -2).unflatten(1, (self.num_heads, self.num_channels)).movedim(2, 3)
        return features + self.out(by_channel.flatten(1, 3).view_as(features))

    def _seen(self, features: Tensor, inputs: Tensor, at: Strip) -> _Seen:
        """What there is of pixels before the one that is drawn; the last of them has just got its data."""
        pixel, width = at.row * at.size[1] + at.start, at.size[1]
        if self in at.memory:
            before: _Seen = at.memory[self]
            keys, values = before.keys, before.values
            if before.pixel != pixel:
                row, column = divmod(before.pixel, width)
                new = self._keys_and_values(before.features, inputs[:, :, row : row + 1, column : column + 1])
                keys, values = (torch.cat(both, 2) for both in zip((keys, values), new, strict=True))
        else:
            keys = values = torch.zeros_like(self._by_head(features))
        at.memory[self] = _Seen(pixel, features, keys, values)
        return at.memory[self]

    def _keys_and_values(self, features: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_and_value(torch.cat([features, inputs], 1)).chunk(2, 1)
        return self._by_head(keys), self._by_head(values)

    def _by_head(self, features: Tensor) -> Tensor:
        """`[N, width, H, W]` as `[N, heads, H W, d]`; channel c of the features belongs to channel `c mod C`."""
        parts = features.flatten(2).unflatten(1, (self.num_heads, -1, self.num_channels)).movedim(3, 2)
        return parts.flatten(1, 2).transpose(-1, -2)
