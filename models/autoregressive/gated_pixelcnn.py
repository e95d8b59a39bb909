"""Gated PixelCNN: a stack of rows above, one of the pixels to the left, and no blind spot."""

from torch import Tensor, nn

from ppvae.arguments import Count, Levels, Natural, Size, Sizes, checked
from ppvae.models.autoregressive.pixel_network import Condition, PixelNetwork
from ppvae.models.autoregressive.rasters import ConvAbove, MaskedConv2d, Strip


class GatedPixelCNN(PixelNetwork):
    """Logits of each pixel given those above it and to its left: every earlier pixel within reach is seen.

    The vertical stack sees the rows above, without masks, the horizontal one the pixels to the left, and at each layer
    what the vertical one has found at the same place. That was made of rows above alone, and needs no mask on its way.
    Convolutions end in `tanh(a) sigmoid(b)`.

    Source: van den Oord et al. 2016 (arXiv:1606.05328).

    Args:
        shape: `(C, H, W)` of images of gray levels or bits, or `(H, W)` of maps of codes.
        levels: L; data are `k / (L - 1)`, or codes 0 ... L - 1.
        width: channels of the features of each stack; a multiple of 2 C.
        num_layers: of each stack.
        radius: how many rows above, and columns to each side, the first convolutions see.
        layer_radius: the same of the others.
        num_condition: channels of the condition, a map `[*, num_condition, H, W]` or `[*, num_condition, 1, 1]`; 0
            for none.

    Raises:
        ValueError: a shape of neither kind, or a width that is no multiple of 2 C.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(GatedPixelCNN((8, 8), levels=16, width=8, num_layers=2))
        >>> p.sample((3,)).shape
        torch.Size([3, 8, 8])
    """

    @checked
    def __init__(
        self,
        shape: Sizes,
        levels: Levels = 256,
        width: Size = 64,
        num_layers: Count = 5,
        radius: Natural = 3,
        layer_radius: Natural = 1,
        num_condition: Natural = 0,
    ):
        super().__init__(shape, levels, width, num_condition)
        radii = [radius, *[layer_radius] * (num_layers - 1)]
        self.layers = nn.ModuleList(
            _Layer(self.num_inputs if i == 0 else width, width, r, self.num_channels, num_condition, first=i == 0)
            for i, r in enumerate(radii)
        )

    def features(self, inputs: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        features = inputs
        for layer, link in zip(self.layers, self._links(inputs, h, at), strict=True):
            features = layer.across(features, link, h, at)  # type: ignore[operator]
        return features

    def _links(self, inputs: Tensor, h: Tensor | None, at: Strip | None) -> list[Tensor]:
        """What each layer's vertical stack tells the horizontal one; when drawing, found once for each row."""
        if at is None:
            return self._vertical(inputs, h, None)
        row, links = at.memory.get(self, (None, []))
        if row != at.row:
            links = self._vertical(inputs, h, at.whole_row())
            at.memory[self] = at.row, links
        return [at.cut(link) for link in links]

    def _vertical(self, inputs: Tensor, h: Tensor | None, at: Strip | None) -> list[Tensor]:
        features, links = inputs, []
        for layer in self.layers:
            features, link = layer.down(features, h, at)  # type: ignore[operator]
            links.append(link)
        return links


class _Layer(nn.Module):
    """One layer of both stacks; the first of them reads the data."""

    def __init__(self, num_in: int, width: int, radius: int, num_channels: int, num_condition: int, *, first: bool):
        super().__init__()
        self.vertical = ConvAbove(num_in, 2 * width, radius, reads_data=first)
        self.vertical_condition = Condition(num_condition, 2 * width)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = MaskedConv2d(num_in, 2 * width, radius, num_channels, reads_data=first, own_row=True)
        self.condition = Condition(num_condition, 2 * width)
        self.out = MaskedConv2d(width, width, num_channels=num_channels)
        self.first = first

    def down(self, features: Tensor, h: Tensor | None, at: Strip | None) -> tuple[Tensor, Tensor]:
        """The vertical stack's features, and what it tells the horizontal one."""
        found = self.vertical(features, at)
        return _gated(self.vertical_condition(found, h, at)), self.link(found)

    def across(self, features: Tensor, link: Tensor, h: Tensor | None, at: Strip | None) -> Tensor:
        """The horizontal stack's features."""
        found = self.out(_gated(self.condition(self.horizontal(features, at) + link, h, at)))
        return found if self.first else features + found


def _gated(features: Tensor) -> Tensor:
    a, b = features.chunk(2, 1)
    return a.tanh() * b.sigmoid()
