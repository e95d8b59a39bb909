"""Bits with a restricted Boltzmann machine for a prior: the discrete VAE's."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Size, checked

MOST_UNITS = 20
"""Of the smaller layer, whose 2^n states are summed over."""


class RestrictedBoltzmann(nn.Module):
    """`p(u, v) = exp(u'W v + a'u + b'v) / Z`, for bits z = (u, v) in two layers; a prior for `VAE`.

    log Z is the sum over all states of the smaller layer, so the prior's probabilities, its gradient and its draws are
    exact. With `IndependentBits` as posterior that is a discrete VAE: train it by `VIMCO`, by `ELBO(num_particles=K)`,
    or, with bias and less noise, by `GumbelSoftmaxELBO`.

    Source: Smolensky 1986; as a prior, Rolfe 2017 (arXiv:1609.02200), whose bits are smoothed; these are not.

    Args:
        num_left: size of u.
        num_right: size of v.

    Raises:
        ValueError: more than 20 units in the smaller layer.

    Example:
        >>> RestrictedBoltzmann(3, 2)().log_prob(torch.zeros(5))
        tensor(-3.4..., grad_fn=<SubBackward0>)
    """

    @checked
    def __init__(self, num_left: Size, num_right: Size):
        super().__init__()
        if min(num_left, num_right) > MOST_UNITS:
            raise ValueError(
                f"num_left, num_right: found {num_left} and {num_right}, expected one of {MOST_UNITS} at most, as "
                "log Z is a sum over all its states; make one layer smaller"
            )
        self.weight = nn.Parameter(0.01 * torch.randn(num_left, num_right))
        self.left, self.right = nn.Parameter(torch.zeros(num_left)), nn.Parameter(torch.zeros(num_right))

    def forward(self) -> "BoltzmannBits":
        return BoltzmannBits(self.weight, self.left, self.right)


class BoltzmannBits(dist.TorchDistribution):
    """The distribution of a restricted Boltzmann machine's bits, u and then v.

    Args:
        weight: W, `[n, m]`.
        left: a, `[n]`.
        right: b, `[m]`.
        batch_shape: whose draws are independent.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, weight: Tensor, left: Tensor, right: Tensor, batch_shape: Sequence[int] = ()):
        self.weight, self.left, self.right = weight, left, right
        super().__init__(torch.Size(batch_shape), torch.Size([len(left) + len(right)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        u, v = value.split([len(self.left), len(self.right)], -1)
        return ((u @ self.weight) * v).sum(-1) + u @ self.left + v @ self.right - self.log_partition()

    def log_partition(self) -> Tensor:
        """`log Z = log sum_u exp(a'u) prod_j (1 + exp(W'u + b)_j)`, over the smaller layer."""
        return self._smaller()[1].logsumexp(0)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The smaller layer from all its states, the other one given it."""
        states, log_p, weight, other = self._smaller()
        shape = torch.Size((*sample_shape, *self.batch_shape))
        small = states[dist.Categorical(logits=log_p).sample(shape)]
        large = dist.Bernoulli(logits=small @ weight + other).sample()
        return torch.cat([small, large] if weight is self.weight else [large, small], -1)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "BoltzmannBits":
        return BoltzmannBits(self.weight, self.left, self.right, batch_shape)

    def _smaller(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All states of the smaller layer, `[2^n, n]`; their log weights, the other layer summed out, `[2^n]`; the
        weights from it to the other layer, and that one's biases."""
        weight, own, other = self.weight, self.left, self.right
        if len(own) > len(other):
            weight, own, other = weight.T, other, own
        place = torch.arange(len(own), device=own.device)
        states = (torch.arange(2 ** len(own), device=own.device).unsqueeze(-1) >> place & 1).to(own)
        return states, states @ own + softplus(states @ weight + other).sum(-1), weight, other


class IndependentBits(nn.Module):
    """`q(z | x) = prod_i Bernoulli(z_i; sigmoid(f_i(x)))`, a posterior over bits.

    Args:
        network: `[*, H] -> [*, D]`, the logits.

    Example:
        >>> IndependentBits(nn.Linear(5, 3))(torch.zeros(4, 5)).event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.network(h)).to_event(1)
