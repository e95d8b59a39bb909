"""Priors over codes: modules whose forward returns a distribution over the indices of all positions."""

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.arguments import Size, Sizes, checked
from ppvae.models.codes.code_vectors import one_hot


class UniformCodes(nn.Module):
    """All codes alike: `p(c) = K^-P` for P positions. Nothing is learned.

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

    def forward(self) -> dist.TorchDistribution:
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


class AutoregressiveCodes(nn.Module):
    """`p(c) = prod_p p(c_p | c_<p)`, the logits of each position linear in the codes before it; uniform at first.

    In raster order. Its `P (P - 1) K^2 / 2` weights suit few positions; for maps, take a masked network.

    Source: Frey et al. 1996, for bits: the fully visible belief network.

    Args:
        shape: of the positions: `(P,)` or `(H, W)`.
        num_codes: K.

    Example:
        >>> prior = AutoregressiveCodes((2,), num_codes=3)
        >>> prior().log_prob(torch.tensor([0, 2])).exp()
        tensor(0.1111, grad_fn=<ExpBackward0>)
        >>> prior().sample((5,)).shape
        torch.Size([5, 2])
    """

    @checked
    def __init__(self, shape: Sizes, num_codes: Size):
        super().__init__()
        num = prod(shape)
        self.shape = tuple(shape)
        self.bias = nn.Parameter(torch.zeros(num, num_codes))
        self.weight = nn.Parameter(torch.zeros(num, num_codes, num, num_codes))

    def forward(self) -> "LinearChain":
        return LinearChain(self.bias, self.weight, self.shape)


class LinearChain(dist.TorchDistribution):
    """Indices whose logits, `bias_p + sum_{q<p} weight_{p,.,q,c_q}`, are linear in those before.

    Args:
        bias: `[P, K]`.
        weight: `[P, K, P, K]`; what is not below the diagonal of positions is not used.
        shape: of the positions, P in all.
        batch_shape: whose draws are independent.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = constraints.nonnegative_integer

    def __init__(self, bias: Tensor, weight: Tensor, shape: Sequence[int], batch_shape: Sequence[int] = ()):
        self.bias, self.weight = bias, weight
        super().__init__(torch.Size(batch_shape), torch.Size(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        index = value.flatten(value.dim() - self.event_dim)
        return self._logits(index).log_softmax(-1).gather(-1, index.unsqueeze(-1)).sum((-1, -2))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        index = torch.zeros(*sample_shape, *self.batch_shape, len(self.bias), dtype=torch.long, device=self.bias.device)
        for p in range(len(self.bias)):
            index[..., p] = dist.Categorical(logits=self._logits(index)[..., p, :]).sample()
        return index.unflatten(-1, self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "LinearChain":
        return LinearChain(self.bias, self.weight, self.event_shape, batch_shape)

    def _logits(self, index: Tensor) -> Tensor:
        before = torch.ones(len(self.bias), len(self.bias)).tril(-1).to(self.bias)
        weight = self.weight * before[:, None, :, None]
        return self.bias + torch.einsum("pkqj,...qj->...pk", weight, one_hot(index, self.bias.shape[-1]).to(weight))
