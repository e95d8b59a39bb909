"""What recurrent networks of several rooms share: an LSTM's update, whatever its gates are made of; a GRU's step."""

from torch import Tensor, nn

from ppvae.arguments import Size, checked


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


class GRUStep(nn.Module):
    """One step of a gated recurrent unit, for any leading dimensions: the next state, given the last and the inputs.

    Source: Cho et al. 2014 (arXiv:1406.1078).

    Args:
        num_in: size of the inputs.
        num_state: H.

    Example:
        >>> import torch
        >>> GRUStep(3, 5)(torch.zeros(5), torch.zeros(7, 4, 3)).shape
        torch.Size([7, 4, 5])
    """

    @checked
    def __init__(self, num_in: Size, num_state: Size):
        super().__init__()
        self.cell = nn.GRUCell(num_in, num_state)

    def forward(self, state: Tensor, inputs: Tensor) -> Tensor:
        state = state.expand(*inputs.shape[:-1], -1)
        return self.cell(inputs.flatten(end_dim=-2), state.flatten(end_dim=-2)).reshape(state.shape)
