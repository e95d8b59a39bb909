"""What recurrent networks of several rooms share: an LSTM's update, whatever its gates are made of."""

from torch import Tensor


def lstm_update(gates: Tensor, cell: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """An LSTM's state and cell: `c' = sigmoid(f) c + sigmoid(i) tanh(g)`, `sigmoid(o) tanh(c')`.

    Args:
        gates: i, f, o and g, one after another along `dim`.
        cell: c.
        dim: that of the features.
    """
    i, f, o, g = gates.chunk(4, dim)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
