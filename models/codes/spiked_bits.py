"""Bits seen through spike-and-exponential smoothing: exactly 0 where the bit is 0, else between 0 and 1."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import register_kl
from torch.nn.functional import logsigmoid, softplus

from ppvae.arguments import checked
from ppvae.models.codes.boltzmann import BoltzmannBits, RestrictedBoltzmann
from ppvae.models.codes.smoothed_bits import Steepness


class SpikedBoltzmann(nn.Module):
    """`p(zeta) = p(z) prod_i r(zeta_i | z_i)`, p(z) a Boltzmann machine's, z_i whether zeta_i > 0; a prior for `VAE`.

    Smoothing by a spike and an exponential: `r(zeta | 0)` has all its mass at 0, `r(zeta | 1)` is proportional to
    `exp(beta zeta)` on [0, 1]. So zeta shows z: r is in prior and posterior alike and leaves every weight, there is no
    sum over states, and the machine may be of any size. **The evidence is of this smoothed model**, whose decoder sees
    zeta; it approaches that of the discrete model as beta grows.

    With `SpikedBits` as posterior, `SpikedELBO` follows the draws. Other objectives take the score function. A point
    mass has no coordinates on a line, so annealing and refinement do not apply: evidence comes from importance weights.

    Source: Rolfe 2017 (arXiv:1609.02200), whose posterior is autoregressive; here its bits are independent.

    Args:
        machine: the distribution of the bits.
        beta: steepness, 50 at most; gradients grow with it.

    Example:
        >>> SpikedBoltzmann(RestrictedBoltzmann(3, 2))().sample((7,)).shape
        torch.Size([7, 5])
    """

    @checked
    def __init__(self, machine: RestrictedBoltzmann, beta: Steepness = 8.0):
        super().__init__()
        self.machine, self.beta = machine, beta

    def forward(self) -> "SpikedBoltzmannBits":
        return SpikedBoltzmannBits(self.machine(), self.beta)

    @property
    def shared_std_error(self) -> float:
        """The standard error of the machine's log Z, which all data points share, in nats."""
        return self.machine.shared_std_error


class SpikedBits(nn.Module):
    """`q(zeta | x) = prod_i q(z_i | x) r(zeta_i | z_i)`, z_i whether zeta_i > 0: independent bits, spiked, a posterior.

    Args:
        network: `[*, H] -> [*, D]`, the logits.
        beta: that of the prior.

    Example:
        >>> SpikedBits(nn.Linear(5, 3))(torch.zeros(4, 5)).sample().shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(self, network: nn.Module, beta: Steepness = 8.0):
        super().__init__()
        self.network, self.beta = network, beta

    def forward(self, h: Tensor) -> "IndependentSpikedBits":
        return IndependentSpikedBits(self.network(h), self.beta)


class SpikeOrInterval(constraints.Constraint):
    """The support: 0 with a probability, above it up to 1 with a density."""

    is_discrete = True  # what is said of all latents on a line does not hold
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return ((value >= 0) & (value <= 1)).all(-1)


class SpikedDistribution(dist.TorchDistribution):
    """What prior and posterior share: `log p(zeta) = log p(z) + sum_{z_i = 1} log r(zeta_i | 1)`."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = SpikeOrInterval()
    beta: float

    def log_prob_of_bits(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value > 0).to(value)
        log_r = math.log(self.beta) - math.log(math.expm1(self.beta)) + self.beta * value
        return self.log_prob_of_bits(z) + (z * log_r).sum(-1)


class SpikedBoltzmannBits(SpikedDistribution):
    """The distribution of a Boltzmann machine's bits, spiked.

    Args:
        bits: theirs.
        beta: steepness.
    """

    def __init__(self, bits: BoltzmannBits, beta: float):
        self.bits, self.beta = bits, beta
        super().__init__(bits.batch_shape, bits.event_shape, validate_args=False)

    def log_prob_of_bits(self, z: Tensor) -> Tensor:
        return self.bits.log_prob(z)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        z = self.bits.sample(sample_shape)
        return z * _quantile(1 - torch.rand_like(z), self.beta)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "SpikedBoltzmannBits":
        return SpikedBoltzmannBits(self.bits.expand(batch_shape), self.beta)


class IndependentSpikedBits(SpikedDistribution):
    """Independent bits with these logits, spiked.

    Args:
        logits: `[*, D]`.
        beta: steepness.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, beta: float):
        self.logits, self.beta = logits, beta
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        of_one = 1 / -math.expm1(-self.beta) - 1 / self.beta
        return of_one * self.logits.sigmoid()

    def log_prob_of_bits(self, z: Tensor) -> Tensor:
        return (z * self.logits - softplus(self.logits)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._drawn(sample_shape)

    def followed(self) -> "FollowedBits":
        """The same, with a path from the logits to the draws, for `SpikedELBO`."""
        return FollowedBits(self.logits, self.beta)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "IndependentSpikedBits":
        return type(self)(self.logits.expand(*batch_shape, *self.event_shape), self.beta)

    def _drawn(self, sample_shape: Any) -> Tensor:
        """By the inverse distribution function of a uniform number: 0 up to `q(z = 0)`, and rising from there."""
        shape = self._extended_shape(torch.Size(sample_shape))
        rest = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        log_share = (torch.log1p(-rest) - logsigmoid(self.logits)).clamp(max=0)
        return _quantile(torch.expm1(log_share).abs(), self.beta)


class FollowedBits(IndependentSpikedBits):
    """Draws with the derivative of `zeta`, which does not jump as the logits change; z does.

    So it is right for the mean of a function that is continuous in zeta, and no other.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._drawn(sample_shape)


def _quantile(share: Tensor, beta: float) -> Tensor:
    """The zeta below which `r(zeta | 1)` has this share."""
    return torch.log1p(share * math.expm1(beta)) / beta


@register_kl(IndependentSpikedBits, SpikedBoltzmannBits)
def _kl_of_spiked_bits(q: IndependentSpikedBits, p: SpikedBoltzmannBits) -> Tensor:
    """That of the bits; the machine's energy is linear in each of them, so that its mean is that at their means."""
    m = q.logits.sigmoid()
    return (m * q.logits - softplus(q.logits)).sum(-1) - p.bits.log_prob(m)
