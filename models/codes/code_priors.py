"""Priors over codes: modules whose forward returns a distribution over the indices of all positions."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Size, Sizes, checked


class UniformCodes(nn.Module):
    """All codes alike, whatever is above: `p(c) = K^-P` for P positions. Nothing is learned.

    Args:
        shape: of the positions: `(P,)` or `(H, W)`.
        num_codes: K.

    Example:
        >>> UniformCodes((2,), num_codes=3)().log_prob(torch.tensor([0, 2])).exp()
        tensor(0.1111)
    """

    logits: Tensor

    @checked
    def __init__(self, shape: Sizes, num_codes: Size):
        super().__init__()
        self.register_buffer("logits", torch.zeros(*shape, num_codes), persistent=False)

    def forward(self, above: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits).to_event(self.logits.dim() - 1)


class FactorizedCodes(nn.Module):
    """`p(c) = prod_p pi_p(c_p)`: a table of probabilities for each position, uniform at first.

    Args:
        shape: of the positions: `(P,)` or `(H, W)`.
        num_codes: K.

    Example:
        >>> FactorizedCodes((2,), num_codes=3)().log_prob(torch.tensor([0, 2])).exp()
        tensor(0.1111, grad_fn=<ExpBackward0>)
    """

    @checked
    def __init__(self, shape: Sizes, num_codes: Size):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*shape, num_codes))

    def forward(self) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits).to_event(self.logits.dim() - 1)
