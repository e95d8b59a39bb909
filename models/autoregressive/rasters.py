"""Convolutions over images that are drawn pixel by pixel: over all pixels at once, or at one, or in one row."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ppvae.models.autoregressive.masked_network import Memory


@dataclass(frozen=True)
class Strip:
    """The part of a row that is computed while an image is drawn; earlier features are in memory.

    Attributes:
        row: its row.
        start: its first column.
        stop: the column after its last.
        size: `(H, W)` of the image.
        memory: what has been kept since the first pixel.
    """

    row: int
    start: int
    stop: int
    size: tuple[int, int]
    memory: Memory

    def whole_row(self) -> "Strip":
        return Strip(self.row, 0, self.size[1], self.size, self.memory)

    def cut(self, features: Tensor) -> Tensor:
        """The strip of a map `[N, n, H, W]`, or of a row, `[N, n, 1, W]`; what is the same everywhere stays."""
        height, width = features.shape[-2:]
        rows = slice(self.row, self.row + 1) if height > 1 else slice(None)
        return features[:, :, rows, self.start : self.stop] if width > 1 else features[:, :, rows]

    def kept(self, layer: nn.Module, features: Tensor) -> Tensor:
        """The map of a layer's inputs, or states, `[N, n, H, W]`, where those of this strip are kept."""
        known = self.known(layer, features)
        known[:, :, self.row, self.start : self.stop] = features.squeeze(2)
        return known

    def known(self, layer: nn.Module, like: Tensor) -> Tensor:
        """The map that is kept for a layer, with as many channels as `like`; zero where nothing is known yet."""
        if layer not in self.memory:
            self.memory[layer] = like.new_zeros(*like.shape[:2], *self.size)
        kept: Tensor = self.memory[layer]
        return kept

    def window(self, features: Tensor, above: int, left: int, right: int) -> Tensor:
        """The part of a map that a convolution sees from the strip, with zeros beyond the image."""
        top, first, last = self.row - above, self.start - left, self.stop + right
        inside = features[:, :, max(top, 0) : self.row + 1, max(first, 0) : last]
        return pad(inside, (max(-first, 0), max(last - self.size[1], 0), max(-top, 0), 0))


class RasterConv2d(nn.Conv2d):
    """A convolution that sees, from each pixel, rows above and its own.

    One that reads the data also sees where the image ends, as if that had a further channel, of ones: beyond there are
    zeros, which may be levels (Salimans et al. 2017, arXiv:1701.05517).

    Args:
        num_in: channels.
        num_out: channels.
        above: how many rows above are seen.
        left: how many columns to the left are seen, in all these rows.
        right: how many to the right.
        reads_data: whether its inputs are the data, a map that is there before any feature.
    """

    mask: Tensor

    def __init__(self, num_in: int, num_out: int, above: int, left: int, right: int, reads_data: bool = False):
        super().__init__(num_in, num_out, (above + 1, left + 1 + right))
        self.above, self.left, self.right, self.reads_data = above, left, right, reads_data
        self.register_buffer("mask", torch.ones_like(self.weight), persistent=False)
        self.of_ones = nn.Parameter(0.1 * torch.randn(num_out, 1, *self.kernel_size)) if reads_data else None

    def forward(self, features: Tensor, at: Strip | None = None) -> Tensor:
        """`[N, num_in, H, W] -> [N, num_out, H, W]`, or, `at` a strip, the strip of that."""
        whole = features if at is None or self.reads_data else at.kept(self, features)
        found = conv2d(self._seen(whole, at), self.weight * self.mask, self.bias)
        if self.of_ones is None:
            return found
        ones = features.new_ones(1, 1, *features.shape[-2:])
        return found + conv2d(self._seen(ones, at), self.of_ones)

    def _seen(self, whole: Tensor, at: Strip | None) -> Tensor:
        if at is None:
            return pad(whole, (self.left, self.right, self.above, 0))
        return at.window(whole, self.above, self.left, self.right)


class MaskedConv2d(RasterConv2d):
    """A convolution that sees, from each channel of a pixel, the pixels before it, and earlier channels of its own.

    Channel c belongs to channel `c mod C` of the data, of inputs and outputs alike.

    Args:
        num_in: channels, a multiple of C.
        num_out: channels, a multiple of C.
        radius: how many rows above are seen, and how many columns to each side.
        num_channels: C, of the data.
        reads_data: whether its inputs are the data: a channel does not see itself then, as features may.
        own_row: whether nothing above is seen.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        radius: int = 0,
        num_channels: int = 1,
        reads_data: bool = False,
        own_row: bool = False,
    ):
        right = 0 if own_row else radius
        super().__init__(num_in, num_out, 0 if own_row else radius, radius, right, reads_data)
        of_input, of_output = torch.arange(num_in) % num_channels, torch.arange(num_out).unsqueeze(1) % num_channels
        self.mask[:, :, -1, radius + 1 :] = 0
        self.mask[:, :, -1, radius] = (of_input < of_output if reads_data else of_input <= of_output).to(self.mask)


class ConvAbove(RasterConv2d):
    """A convolution of features that are made of the rows above them, and of the data in the rows above.

    Args:
        num_in: channels.
        num_out: channels.
        radius: how many rows above are seen, and how many columns to each side.
        reads_data: whether its inputs are the data: their own row is not seen then.
    """

    def __init__(self, num_in: int, num_out: int, radius: int, reads_data: bool = False):
        super().__init__(num_in, num_out, radius, radius, radius, reads_data)
        if reads_data:
            self.mask[:, :, -1] = 0
