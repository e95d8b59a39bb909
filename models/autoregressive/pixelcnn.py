"""PixelCNN: masked convolutions in residual blocks."""

from torch import Tensor, nn

from ppvae.arguments import Levels, Natural, Size, Sizes, checked
from ppvae.models.autoregressive.pixel_network import Condition, FirstLayer, PixelNetwork
from ppvae.models.autoregressive.rasters import MaskedConv2d, Strip


class PixelCNN(PixelNetwork):
    """Logits of each pixel given those above it and to its left, by masked convolutions.

    Stacked masks leave a blind spot: of each row above, pixels far to the right are never seen, however many blocks
    there are. `GatedPixelCNN` has none. With no block and `radius=0`, a pixel sees nothing but the condition; without
    convolutions in the blocks (`block_radius=0`) `radius` alone says what is seen.

    Source: van den Oord et al. 2016 (arXiv:1601.06759).

    Args:
        shape: `(C, H, W)` of images of gray levels or bits, or `(H, W)` of maps of codes.
        levels: L; data are `k / (L - 1)`, or codes 0 ... L - 1.
        width: channels of the features; a multiple of 2 C.
        num_blocks: residual blocks.
        radius: how many rows above, and columns to each side, the first convolution sees.
        block_radius: the same of the blocks' convolutions.
        num_condition: channels of the condition, a map `[*, num_condition, H, W]` or `[*, num_condition, 1, 1]`; 0
            for none.

    Raises:
        ValueError: a shape of neither kind, or a width that is no multiple of 2 C.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(PixelCNN((1, 8, 8), levels=2, width=8, num_blocks=1))
        >>> p.sample((3,)).shape
        torch.Size([3, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        shape: Sizes,
        levels: Levels = 256,
        width: Size = 64,
        num_blocks: Natural = 5,
        radius: Natural = 3,
        block_radius: Natural = 1,
        num_condition: Natural = 0,
    ):
        super().__init__(shape, levels, width, num_condition)
        self.first = FirstLayer(self, radius)
        self.blocks = nn.ModuleList(
            MaskedResidualBlock(width, block_radius, self.num_channels, num_condition) for _ in range(num_blocks)
        )

    def features(self, inputs: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        features = self.first(inputs, h, at)
        for block in self.blocks:
            features = block(features, h, at)
        return features


class MaskedResidualBlock(nn.Module):
    """Features added to by a convolution of half of their width."""

    def __init__(self, width: int, radius: int, num_channels: int, num_condition: int):
        super().__init__()
        self.narrow = MaskedConv2d(width, width // 2, num_channels=num_channels)
        self.across = MaskedConv2d(width // 2, width // 2, radius, num_channels)
        self.condition = Condition(num_condition, width // 2)
        self.wide = MaskedConv2d(width // 2, width, num_channels=num_channels)

    def forward(self, features: Tensor, h: Tensor | None, at: Strip | None) -> Tensor:
        inner = self.across(self.narrow(features.relu()).relu(), at)
        return features + self.wide(self.condition(inner, h, at).relu())
