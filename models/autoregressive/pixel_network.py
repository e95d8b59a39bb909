"""What masked networks of images share: entries in the order of a raster, and logits from maps of features."""

from collections.abc import Sequence
from itertools import product

from torch import Tensor, nn

from ppvae.models.autoregressive.alphabets import Codes, Levels
from ppvae.models.autoregressive.masked_network import MaskedNetwork, Memory
from ppvae.models.autoregressive.rasters import MaskedConv2d, Strip


class PixelNetwork(MaskedNetwork):
    """The base class of masked networks of images: row by row, each from left to right, channel after channel.

    Args:
        shape: `(C, H, W)` of images of gray levels or bits, or `(H, W)` of maps of codes.
        levels: L; data are `k / (L - 1)`, or codes 0 ... L - 1.
        width: channels of the features; a multiple of 2 C.
        num_condition: channels of the condition h; 0 for none.

    Raises:
        ValueError: a shape of neither kind, or a width that is no multiple of 2 C.
    """

    def __init__(self, shape: Sequence[int], levels: int, width: int, num_condition: int):
        super().__init__()
        if len(shape) not in (2, 3):
            raise ValueError(f"shape: found {tuple(shape)}, expected (C, H, W) of images, or (H, W) of maps of codes")
        self.event_shape, self.num_condition, self.width = tuple(shape), num_condition, width
        self.alphabet = Levels(levels) if len(shape) == 3 else Codes(levels)
        self.num_channels, self.size = (shape[0] if len(shape) == 3 else 1), (shape[-2], shape[-1])
        if width % (2 * self.num_channels):
            raise ValueError(
                f"width: found {width}, expected a multiple of {2 * self.num_channels}, as data have "
                f"{self.num_channels} channel{'s' * (self.num_channels > 1)} and features are halved"
            )
        channels = [(c,) for c in range(shape[0])] if len(shape) == 3 else [()]
        pixels = product(*map(range, self.size))
        self.order = [(*channel, *pixel) for pixel in pixels for channel in channels]
        self.num_inputs = self.alphabet.num_inputs * self.num_channels
        self.head = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(width, width, num_channels=self.num_channels),
            nn.ReLU(),
            MaskedConv2d(width, levels * self.num_channels, num_channels=self.num_channels),
        )

    def features(self, inputs: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        """Features of pixels before each, `[N, width, H, W]`, or, `at` a strip, those of it."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        logits = self.head(self.features(inputs, h)).unflatten(1, (-1, self.num_channels)).movedim(1, -1)
        return logits if len(self.event_shape) == 3 else logits.squeeze(1)

    def step(self, inputs: Tensor, h: Tensor | None, entry: tuple[int, ...], memory: Memory) -> Tensor:
        *channel, row, column = entry
        at = Strip(row, column, column + 1, self.size, memory)
        logits = self.head(self.features(inputs, h, at)).unflatten(1, (-1, self.num_channels))
        return logits[:, :, channel[0] if channel else 0, 0, 0]

    def start_at(self, count: Tensor) -> None:
        of_channel = count.view(self.num_channels, -1, self.alphabet.size).sum(1)
        frequency = of_channel / of_channel.sum(-1, keepdim=True)
        bias = self.head[-1].bias
        assert isinstance(bias, Tensor)
        bias.data.copy_(frequency.T.log().flatten())


class FirstLayer(nn.Module):
    """The convolution that reads the data, and what a condition adds to it.

    Args:
        network: whose data these are.
        radius: how many rows above, and columns to each side, are seen.
    """

    def __init__(self, network: PixelNetwork, radius: int):
        super().__init__()
        self.near = MaskedConv2d(network.num_inputs, network.width, radius, network.num_channels, reads_data=True)
        self.condition = Condition(network.num_condition, network.width)

    def forward(self, inputs: Tensor, h: Tensor | None, at: Strip | None) -> Tensor:
        return self.condition(self.near(inputs, at), h, at)


class Condition(nn.Module):
    """What a condition adds to features: a linear map of h at each pixel, or nothing.

    Args:
        num_condition: channels of h; 0 for none.
        num_out: channels of the features.
    """

    def __init__(self, num_condition: int, num_out: int):
        super().__init__()
        self.linear = nn.Conv2d(num_condition, num_out, 1, bias=False) if num_condition else None

    def forward(self, features: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        if self.linear is None or h is None:
            return features
        return features + self.linear(h if at is None else at.cut(h))
