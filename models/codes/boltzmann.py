"""Bits with a restricted Boltzmann machine for a prior: the discrete VAE's."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.arguments import Size, checked
from ppvae.models.codes.partition import (
    MOST_UNITS,
    all_states,
    annealed_log_partition,
    gibbs,
    log_partition,
    log_weights_of_smaller,
)

CHAINS, SWEEPS = 100, 100


class RestrictedBoltzmann(nn.Module):
    """`p(u, v) = exp(u'W v + a'u + b'v) / Z`, for bits z = (u, v) in two layers; a prior for `VAE`.

    Up to 20 units in the smaller layer, log Z is the sum over its states: probabilities, gradient and draws are exact.
    With `IndependentBits` as posterior that is a discrete VAE: train it by `VIMCO`, by `ELBO(num_particles=K)`, or,
    with bias and less noise, by `GumbelSoftmaxELBO`.

    With more, the gradient of log Z is that of persistent chains, which take one Gibbs sweep each time that the prior
    is used in training. What training reports is off by what log Z has changed since it was last known. In evaluation
    log Z is estimated by annealed importance sampling, once for all data: `shared_std_error` is its standard error, a
    line of its own in the ledger. As that is too low rather than too high, log p(x) and ELBO err upwards, both by the
    same. Draws are of chains that start at the persistent ones, and are no better than these have mixed.

    Source: Smolensky 1986; persistent chains: Tieleman 2008; log Z: Salakhutdinov & Murray 2008; as a prior, Rolfe 2017
    (arXiv:1609.02200), whose bits are smoothed: see `SpikedBoltzmann`; these are not.

    Args:
        num_left: size of u.
        num_right: size of v.

    Example:
        >>> RestrictedBoltzmann(3, 2)().log_prob(torch.zeros(5))
        tensor(-3.4..., grad_fn=<SubBackward0>)
    """

    chains: Tensor
    log_z: Tensor
    log_z_error: Tensor
    known_at: Tensor

    @checked
    def __init__(self, num_left: Size, num_right: Size):
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(num_left, num_right))
        self.left, self.right = nn.Parameter(torch.zeros(num_left)), nn.Parameter(torch.zeros(num_right))
        self.is_exact = min(num_left, num_right) <= MOST_UNITS
        if not self.is_exact:
            self.register_buffer("chains", torch.rand(CHAINS, num_left + num_right).round())
            self.register_buffer("log_z", torch.zeros(()))
            self.register_buffer("log_z_error", torch.zeros(()))
            self.register_buffer("known_at", torch.full_like(self._parameters_in_one(), torch.nan))

    def forward(self) -> "BoltzmannBits":
        if self.is_exact:
            return BoltzmannBits(self.weight, self.left, self.right)
        if self.training:
            with torch.no_grad():
                self.chains.copy_(self._swept(self.chains))
        else:
            self._estimate()
        return BoltzmannBits(self.weight, self.left, self.right, known=(self.log_z, self.chains.clone()))

    @property
    def shared_std_error(self) -> float:
        """The standard error of log Z, which all data points share, in nats; zero where it is a sum."""
        if self.is_exact:
            return 0.0
        self._estimate()
        return self.log_z_error.item()

    @torch.no_grad()
    def _estimate(self) -> None:
        """log Z of the parameters as they are, if it is not known."""
        now = self._parameters_in_one()
        if not torch.equal(now, self.known_at):
            log_z, error = annealed_log_partition(self.weight, self.left, self.right)
            self.log_z.copy_(log_z)
            self.log_z_error.copy_(error)
            self.known_at.copy_(now)

    def _parameters_in_one(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in (self.weight, self.left, self.right)])

    def _swept(self, z: Tensor) -> Tensor:
        return gibbs(self.weight, self.left, self.right, z[:, : len(self.left)])


class BoltzmannBits(dist.TorchDistribution):
    """The distribution of a restricted Boltzmann machine's bits, u and then v.

    Args:
        weight: W, `[n, m]`.
        left: a, `[n]`.
        right: b, `[m]`.
        batch_shape: whose draws are independent.
        known: log Z, and chains `[M, n + m]` whose moments are its gradient, where it is not to be a sum.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        weight: Tensor,
        left: Tensor,
        right: Tensor,
        batch_shape: Sequence[int] = (),
        known: tuple[Tensor, Tensor] | None = None,
    ):
        self.weight, self.left, self.right, self.known = weight, left, right, known
        super().__init__(torch.Size(batch_shape), torch.Size([len(left) + len(right)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._minus_energy(value) - self.log_partition()

    def log_partition(self) -> Tensor:
        """log Z. Where it is known beforehand, its gradient is the mean of that of minus the energy over the chains."""
        if self.known is None:
            return log_partition(self.weight, self.left, self.right)
        log_z, chains = self.known
        moments = self._minus_energy(chains).mean()
        return log_z + (moments - moments.detach())

    def _minus_energy(self, z: Tensor) -> Tensor:
        u, v = z.split([len(self.left), len(self.right)], -1)
        return ((u @ self.weight) * v).sum(-1) + u @ self.left + v @ self.right

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The smaller layer from all its states, the other one given it; of large machines, by Gibbs sweeps."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        if self.known is not None:
            return self._by_sweeps(shape.numel()).reshape(*shape, -1)
        left_is_small = len(self.left) <= len(self.right)
        log_p = log_weights_of_smaller(self.weight, self.left, self.right)
        small = all_states(min(len(self.left), len(self.right)), self.weight)[
            dist.Categorical(logits=log_p).sample(shape)
        ]
        field = small @ self.weight + self.right if left_is_small else small @ self.weight.T + self.left
        large = dist.Bernoulli(logits=field).sample()
        return torch.cat([small, large] if left_is_small else [large, small], -1)

    def _by_sweeps(self, num: int) -> Tensor:
        """From chains chosen at random."""
        assert self.known is not None
        _, chains = self.known
        z = chains[torch.randint(len(chains), (num,), device=chains.device)]
        for _ in range(SWEEPS):
            z = gibbs(self.weight, self.left, self.right, z[:, : len(self.left)])
        return z

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "BoltzmannBits":
        return BoltzmannBits(self.weight, self.left, self.right, batch_shape, self.known)


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
