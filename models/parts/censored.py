"""A likelihood of values with a ceiling: what lies above it is recorded as the ceiling itself."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.special import log_ndtr, ndtr

from ppvae.arguments import Natural, RealTensor, Spread, checked
from ppvae.models.parts.likelihoods import Gaussian, MinSigma, per_output

FAR = 30.0  # standard deviations beyond which nothing lies
LIMITS = constraints.greater_than(-math.inf)  # infinity is one, NaN is not


class RightCensoredNormal(dist.TorchDistribution):
    """A Gaussian whose values above a limit are recorded as the limit.

    `p(x) = N(x; loc, scale^2)` for x below the limit, a density; `P(x = limit) = Phi((loc - limit) / scale)`, a
    probability.

    Source: Tobin 1958, Econometrica 26.

    Args:
        loc, scale, limit: tensors that broadcast; the limit may be infinity.

    Example:
        >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
        >>> RightCensoredNormal(loc=zero, scale=one, limit=zero).log_prob(zero).exp()
        tensor(0.5000)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive, "limit": LIMITS}

    def __init__(self, loc: Tensor, scale: Tensor, limit: Tensor, validate_args: bool | None = None):
        self.loc, self.scale, self.limit = broadcast_all(loc, scale, limit)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(-math.inf, self.limit)

    @property
    def mean(self) -> Tensor:
        a = ((self.limit - self.loc) / self.scale).clamp(max=FAR)
        density = (-a.square() / 2).exp() / math.sqrt(2 * math.pi)
        return self.loc - self.scale * (density - a * ndtr(-a))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        censored = value >= self.limit
        limit = torch.where(censored, self.limit, self.loc)  # finite, as gradients pass both branches
        above = log_ndtr((self.loc - limit) / self.scale)
        return torch.where(censored, above, dist.Normal(self.loc, self.scale).log_prob(value))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.minimum(dist.Normal(self.loc, self.scale).sample(sample_shape), self.limit)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RightCensoredNormal":
        loc, scale, limit = (part.expand(batch_shape) for part in (self.loc, self.scale, self.limit))
        return RightCensoredNormal(loc, scale, limit, validate_args=self._validate_args)


class RightCensored(Gaussian):
    """`p(x | z)`: a Gaussian of mean `mu(z)` and one learned sigma, recorded up to a limit; see `RightCensoredNormal`.

    For a ceiling that all data points share: a saturated sensor, a detection limit, the end of a study. Where each has
    a limit of its own, write the model: a limit is then a covariate, an argument of the model.

    Source: Tobin 1958, Econometrica 26.

    Args:
        network: `[*, D] -> [*, *event]`, the mean.
        limit: `[num_features]` or `[C, 1, 1]`; an infinite one becomes the highest value of the data in `init_from`.
        min_sigma: lower bound of sigma.
        event_dim: number of event dimensions of x; 3 for images `[C, H, W]`.

    Raises:
        ValueError: a limit that is NaN, or minus infinity.

    Example:
        >>> RightCensored(nn.Linear(2, 5), limit=torch.ones(5))(torch.zeros(4, 2)).event_shape
        torch.Size([5])
    """

    limit: Tensor

    @checked
    def __init__(self, network: nn.Module, limit: RealTensor, min_sigma: MinSigma = 1e-2, event_dim: Natural = 1):
        super().__init__(network, min_sigma=min_sigma, event_dim=event_dim)
        if not (possible := LIMITS.check(limit)).all():
            row = (~possible).nonzero()[0].tolist()
            raise ValueError(
                f"limit, at index {row}: found {limit[tuple(row)]:g}, expected a number, or infinity; pass torch.inf "
                "where there is no limit"
            )
        self.register_buffer("limit", limit.clone())

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return RightCensoredNormal(self.network(z), self.sigma(z), self.limit).to_event(self.event_dim)

    @checked
    def init_from(self, x: Spread) -> None:
        """Starts mean and sigma as a Gaussian's, and an infinite limit at the data's highest value."""
        super().init_from(x)
        highest = per_output(x, self.event_dim, self.limit.shape[0]).amax(0).view_as(self.limit)
        self.limit.copy_(torch.where(self.limit.isinf(), highest, self.limit))
