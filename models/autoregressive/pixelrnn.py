"""PixelRNN: recurrent networks whose state runs down an image, row by row or along diagonals."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ppvae.arguments import Count, Levels, Natural, Size, Sizes, checked
from ppvae.models.autoregressive.pixel_network import FirstLayer, PixelNetwork
from ppvae.models.autoregressive.rasters import MaskedConv2d, Strip
from ppvae.models.parts.recurrence import lstm_update


class RowLSTM(PixelNetwork):
    """Logits of each pixel given those above it and to its left, by LSTMs that run down, a row at a time.

    The state of a pixel comes from three pixels of the row above, and from near ones to its left: the view is a
    triangle that widens upwards, and misses what lies outside.

    Source: van den Oord et al. 2016 (arXiv:1601.06759).

    Args:
        shape: `(C, H, W)` of images of gray levels or bits, or `(H, W)` of maps of codes.
        levels: L; data are `k / (L - 1)`, or codes 0 ... L - 1.
        width: channels of the features; a multiple of 2 C.
        num_layers: of LSTMs, each added to what it reads.
        radius: how many rows above, and columns to each side, the first convolution sees.
        num_condition: channels of the condition, a map `[*, num_condition, H, W]` or `[*, num_condition, 1, 1]`; 0
            for none.

    Raises:
        ValueError: a shape of neither kind, or a width that is no multiple of 2 C.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(RowLSTM((1, 4, 4), levels=2, width=8, num_layers=1))
        >>> p.sample((3,)).shape
        torch.Size([3, 1, 4, 4])
    """

    @checked
    def __init__(
        self,
        shape: Sizes,
        levels: Levels = 256,
        width: Size = 64,
        num_layers: Count = 3,
        radius: Natural = 3,
        num_condition: Natural = 0,
    ):
        super().__init__(shape, levels, width, num_condition)
        self.first = FirstLayer(self, radius)
        self.layers = nn.ModuleList(self.layer() for _ in range(num_layers))

    def layer(self) -> nn.Module:
        """One LSTM over the image."""
        return RowLayer(self.width, self.num_channels)

    def features(self, inputs: Tensor, h: Tensor | None, at: Strip | None = None) -> Tensor:
        features = self.first(inputs, h, at)
        for layer in self.layers:
            features = features + layer(features, inputs, at)
        return features


class DiagonalBiLSTM(RowLSTM):
    """Logits of each pixel given all earlier ones, by LSTMs that run along the image's diagonals, both ways.

    The state of a pixel comes from that to its left and that above it, or, the other way, from that to its right and
    that above: so all of the image before it is seen, whatever its size. What runs from the right is read one row
    lower, as its own row is not all known yet, and so may see the data at its own place. When drawing, it runs once for
    each row.

    Source: van den Oord et al. 2016 (arXiv:1601.06759).

    Args:
        shape, levels, width, num_layers, radius, num_condition: as those of `RowLSTM`.

    Raises:
        ValueError: a shape of neither kind, or a width that is no multiple of 2 C.

    Example:
        >>> from ppvae.models import Autoregressive
        >>> p = Autoregressive(DiagonalBiLSTM((1, 4, 4), levels=2, width=8, num_layers=1))
        >>> p.sample((3,)).shape
        torch.Size([3, 1, 4, 4])
    """

    def layer(self) -> nn.Module:
        return BothDiagonals(self.width, self.num_inputs, self.num_channels)


class RowLayer(nn.Module):
    """An LSTM that runs down: a row's gates from its features to the left, and from the state of the row above.

    Args:
        width: channels.
        num_channels: C, of the data.
    """

    def __init__(self, width: int, num_channels: int):
        super().__init__()
        self.to_gates = MaskedConv2d(width, 4 * width, 1, num_channels, own_row=True)
        self.from_above = nn.Conv1d(width, 4 * width, 3, bias=False)

    def forward(self, features: Tensor, inputs: Tensor, at: Strip | None) -> Tensor:
        of_input = self.to_gates(features, at)
        if at is not None:
            return self._strip(of_input, at)
        state = cell = torch.zeros_like(features[:, :, 0])
        rows = []
        for row in of_input.unbind(2):
            state, cell = lstm_update(row + self.from_above(pad(state, (1, 1))), cell)
            rows.append(state)
        return torch.stack(rows, 2)

    def _strip(self, of_input: Tensor, at: Strip) -> Tensor:
        """The states of a strip, from those of the row above, which are kept with their cells."""
        above = at.window(at.known(self, of_input.chunk(2, 1)[0]), 1, 1, 1)[:, :, 0]
        state, cell = above.chunk(2, 1)
        state, cell = lstm_update(of_input.squeeze(2) + self.from_above(state), cell[:, :, 1:-1])
        at.kept(self, torch.cat([state, cell], 1).unsqueeze(2))
        return state.unsqueeze(2)


class DiagonalLayer(nn.Module):
    """An LSTM over the columns of an image whose rows are each shifted one further: its diagonals.

    Args:
        width: channels.
        to_gates: a convolution, from what it reads to the four gates.
    """

    def __init__(self, width: int, to_gates: nn.Module):
        super().__init__()
        self.to_gates = to_gates
        self.from_left_and_above = nn.Conv1d(width, 4 * width, 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        of_input = skewed(self.to_gates(features))
        state = cell = features.new_zeros(len(features), of_input.shape[1] // 4, features.shape[2])
        diagonals = []
        for column in of_input.unbind(3):
            # Beside it, in the shifted image, are the pixel to the left and, one row up, the pixel above.
            state, cell = lstm_update(column + self.from_left_and_above(pad(state, (1, 0))), cell)
            diagonals.append(state)
        return unskewed(torch.stack(diagonals, 3), features.shape[-1])

    def strip(self, features: Tensor, at: Strip) -> Tensor:
        """The states of a strip, one after another; those to the left and above are kept with their cells."""
        of_input = self.to_gates(features)
        seen = at.window(at.known(self, of_input.chunk(2, 1)[0]), 1, 1, 0)
        above, _ = seen[:, :, 0, 1:].chunk(2, 1)
        state, cell = seen[:, :, 1, 0].chunk(2, 1)
        states = []
        for gates, up in zip(of_input.squeeze(2).unbind(2), above.unbind(2), strict=True):
            near = self.from_left_and_above(torch.stack([up, state], 2)).squeeze(2)
            state, cell = lstm_update(gates + near, cell)
            states.append(torch.cat([state, cell], 1))
        found = torch.stack(states, 2).unsqueeze(2)
        at.kept(self, found)
        return found.chunk(2, 1)[0]


class BothDiagonals(nn.Module):
    """A layer from the left, and one from the right, which is read one row lower.

    Args:
        width: channels.
        num_inputs: channels of the encoded data.
        num_channels: C, of the data.
    """

    def __init__(self, width: int, num_inputs: int, num_channels: int):
        super().__init__()
        self.from_left = DiagonalLayer(width, MaskedConv2d(width, 4 * width, num_channels=num_channels))
        self.from_right = DiagonalLayer(width, nn.Conv2d(width + num_inputs, 4 * width, 1))

    def forward(self, features: Tensor, inputs: Tensor, at: Strip | None) -> Tensor:
        if at is not None:
            return self.from_left.strip(features, at) + self._row_above(features, inputs, at)
        from_right = self.from_right(torch.cat([features, inputs], 1).flip(-1)).flip(-1)
        return self.from_left(features) + pad(from_right, (0, 0, 1, 0))[:, :, :-1]

    def _row_above(self, features: Tensor, inputs: Tensor, at: Strip) -> Tensor:
        """What the layer from the right has found a row higher, once for each row."""
        known = at.kept(self, features)
        if at.row == 0:
            return torch.zeros_like(features)
        row, found = at.memory.get((self, "row"), (None, features))
        if row != at.row:
            rows = slice(at.row - 1, at.row)
            above = Strip(at.row - 1, 0, at.size[1], at.size, at.memory)
            both = torch.cat([known[:, :, rows], inputs[:, :, rows]], 1)
            found = self.from_right.strip(both.flip(-1), above).flip(-1)
            at.memory[self, "row"] = at.row, found
        return at.cut(found)


def skewed(image: Tensor) -> Tensor:
    """Row r shifted r to the right: `[N, n, H, W] -> [N, n, H, W + H - 1]`, zeros elsewhere."""
    height = image.shape[-2]
    rows = [pad(row, (r, height - 1 - r)) for r, row in enumerate(image.unbind(2))]
    return torch.stack(rows, 2)


def unskewed(image: Tensor, width: int) -> Tensor:
    """The inverse of `skewed`."""
    return torch.stack([row[..., r : r + width] for r, row in enumerate(image.unbind(2))], 2)
