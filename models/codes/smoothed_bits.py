"""Bits seen through overlapping smoothing: latents between 0 and 1, with densities and reparameterized gradients."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ppvae.arguments import checked
from ppvae.models.codes.boltzmann import BoltzmannBits, RestrictedBoltzmann
from ppvae.models.codes.partition import log_partition
from ppvae.rules import Number

Steepness = Annotated[float, Number(above=0, at_most=50, said="a steepness above 0, of 50 at most")]
"""Above, `exp(-beta)` is lost to rounding; there is little smoothing left by then."""


def log_density_at_zero(zeta: Tensor, beta: float) -> Tensor:
    """`log r(zeta | z = 0)`, of each entry; given 1 it is larger by `beta (2 zeta - 1)`."""
    return math.log(beta) - math.log(-math.expm1(-beta)) - beta * zeta


class SmoothedBoltzmann(nn.Module):
    """`p(zeta) = sum_z p(z) prod_i r(zeta_i | z_i)`, p(z) a Boltzmann machine's, and z summed out: a prior for `VAE`.

    Overlapping exponentials smooth each bit, `r(zeta | 0)` proportional to `exp(-beta zeta)` and `r(zeta | 1)` to
    `exp(beta (zeta - 1))`, both on [0, 1]. With `SmoothedBits` as posterior all latents are continuous: any
    reparameterized bound trains it, and AIS measures it. **The evidence is of this smoothed model**, whose decoder sees
    zeta, and not of the discrete one, which it approaches as beta grows. The density is a sum over the states of the
    machine's smaller layer for each point: keep that to ten units or so.

    Source: Vahdat et al. 2018 (arXiv:1802.04920).

    Args:
        machine: with 20 units at most in its smaller layer.
        beta: steepness, 50 at most; gradients grow with it.

    Raises:
        ValueError: a machine whose smaller layer is too large for the sum.

    Example:
        >>> SmoothedBoltzmann(RestrictedBoltzmann(3, 2))().sample((7,)).shape
        torch.Size([7, 5])
    """

    @checked
    def __init__(self, machine: RestrictedBoltzmann, beta: Steepness = 8.0):
        super().__init__()
        if not machine.is_exact:
            raise ValueError(
                f"machine: found layers of {len(machine.left)} and {len(machine.right)}, expected one of 20 at most, "
                "as each density is a sum over all its states; make one layer smaller, or leave the bits as they are"
            )
        self.machine, self.beta = machine, beta

    def forward(self) -> "SmoothedBoltzmannBits":
        return SmoothedBoltzmannBits(self.machine.weight, self.machine.left, self.machine.right, self.beta)


class SmoothedBits(nn.Module):
    """`q(zeta | x) = prod_i sum_z q(z_i | x) r(zeta_i | z_i)`: smoothed independent bits, a posterior.

    Args:
        network: `[*, H] -> [*, D]`, the logits.
        beta: that of the prior.

    Example:
        >>> q = SmoothedBits(nn.Linear(5, 3))(torch.zeros(4, 5))
        >>> q.rsample().shape, q.has_rsample
        (torch.Size([4, 3]), True)
    """

    @checked
    def __init__(self, network: nn.Module, beta: Steepness = 8.0):
        super().__init__()
        self.network, self.beta = network, beta

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return SmoothedBernoulli(self.network(h), self.beta).to_event(1)


class SmoothedBernoulli(dist.TorchDistribution):
    """A bit with these logits, smoothed.

    Draws invert the distribution function, a quadratic in `exp(-beta zeta)`.

    Args:
        logits: `[*]`.
        beta: steepness.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, beta: float):
        self.logits, self.beta = logits, beta
        super().__init__(logits.shape, torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        of_one = 1 / -math.expm1(-self.beta) - 1 / self.beta
        return 1 - of_one + self.logits.sigmoid() * (2 * of_one - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        of_one = logsigmoid(self.logits) + self.beta * (2 * value - 1)
        return torch.logaddexp(logsigmoid(-self.logits), of_one) + log_density_at_zero(value, self.beta)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        rho = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        one, zero, floor = self.logits.sigmoid(), (-self.logits).sigmoid(), math.exp(-self.beta)
        b = zero - one * floor - rho * (1 - floor)
        root = (b.square() + 4 * zero * one * floor).sqrt()
        m = torch.where(b > 0, (b + root) / (2 * zero), 2 * one * floor / (root - b))
        return -m.clamp(floor, 1.0).log() / self.beta

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "SmoothedBernoulli":
        return SmoothedBernoulli(self.logits.expand(torch.Size(batch_shape)), self.beta)


class SmoothedBoltzmannBits(dist.TorchDistribution):
    """The distribution of a Boltzmann machine's smoothed bits.

    Args:
        weight, left, right: of the machine.
        beta: steepness.
        batch_shape: whose draws are independent.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = constraints.independent(constraints.unit_interval, 1)

    def __init__(self, weight: Tensor, left: Tensor, right: Tensor, beta: float, batch_shape: Sequence[int] = ()):
        self.weight, self.left, self.right, self.beta = weight, left, right, beta
        super().__init__(torch.Size(batch_shape), torch.Size([len(left) + len(right)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Smoothing moves the biases: `log sum_z exp(-E(z) + sum_i z_i beta (2 zeta_i - 1)) - log Z`."""
        u, v = (self.beta * (2 * value - 1)).split([len(self.left), len(self.right)], -1)
        tilted = log_partition(self.weight, self.left + u, self.right + v)
        log_z = log_partition(self.weight, self.left, self.right)
        return tilted - log_z + log_density_at_zero(value, self.beta).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        bits = BoltzmannBits(self.weight, self.left, self.right, self.batch_shape).sample(sample_shape)
        certain = torch.where(bits > 0, torch.inf, -torch.inf)
        return SmoothedBernoulli(certain, self.beta).rsample()

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "SmoothedBoltzmannBits":
        return SmoothedBoltzmannBits(self.weight, self.left, self.right, self.beta, batch_shape)
