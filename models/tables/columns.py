"""Columns of a table: modules whose forward takes a network's output for a column and returns its distribution."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.models.parts.ordinal import OrderedLogits
from ppvae.networks import inverse_softplus

MIN_SIGMA = 1e-2
"""The lower bound of a real column's sigma, in units of the data's spread."""


class Column(nn.Module):
    """The base class: forward takes `[*]` and returns a distribution of batch shape `[*]`."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        raise NotImplementedError

    def scaled(self, x: Tensor) -> Tensor:
        """Values as an encoder takes them, of the order of one."""
        raise NotImplementedError

    def start_at(self, x: Tensor) -> Tensor:
        """Initializes the column from the values that are there, and returns the output that they have on average."""
        raise NotImplementedError


class RealColumn(Column):
    """`N(m + s f, (s sigma)^2)`: m and s are the data's mean and spread, sigma is learned and starts at 1.

    A column that is constant, or a copy of another, lets the density grow without limit as sigma shrinks: 0.01 is
    sigma's lower bound, and part of the model, as in `Gaussian`.
    """

    loc: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("loc", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(1.0))
        self.unconstrained_sigma = nn.Parameter(inverse_softplus(torch.tensor(1.0 - MIN_SIGMA)))

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        sigma = MIN_SIGMA + softplus(self.unconstrained_sigma)
        return dist.Normal(self.loc + self.spread * output, self.spread * sigma)

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.spread

    def start_at(self, x: Tensor) -> Tensor:
        self.loc.copy_(x.mean())
        if (x != x[0]).any():  # the standard deviation of equal numbers may be a rounding error
            self.spread.copy_(x.std())
        return torch.zeros(())


class CountColumn(Column):
    """`Poisson(exp f)`; the latents make it wider than a Poisson distribution is. See `Poisson`."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(output.exp())

    def scaled(self, x: Tensor) -> Tensor:
        return x.log1p()

    def start_at(self, x: Tensor) -> Tensor:
        return x.mean().clamp(min=0.01).log()


class BinaryColumn(Column):
    """`Bernoulli(sigmoid f)`, of zeros and ones."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=output)

    def scaled(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def start_at(self, x: Tensor) -> Tensor:
        return x.mean().clamp(0.01, 0.99).logit()


class OrdinalColumn(Column):
    """`P(x <= k) = sigmoid(c_k - f)` with learned cutpoints c, of levels 0 ... L - 1.

    Source: McCullagh 1980.

    Args:
        levels: L.
    """

    def __init__(self, levels: int):
        super().__init__()
        self.levels = levels
        self.first = nn.Parameter(torch.tensor(0.0))
        self.steps = nn.Parameter(torch.zeros(levels - 2))

    def cutpoints(self) -> Tensor:
        """`[L - 1]`, ascending."""
        return self.first + torch.cat([torch.zeros_like(self.first)[None], softplus(self.steps).cumsum(0)])

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return OrderedLevels(output, self.cutpoints())

    def scaled(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def start_at(self, x: Tensor) -> Tensor:
        """Cutpoints at the frequencies of the levels, with one added to each count."""
        count = torch.bincount(x.long(), minlength=self.levels) + 1.0
        cutpoints = (count.cumsum(0)[:-1] / count.sum()).logit().to(self.first)
        self.first.copy_(cutpoints[0])
        self.steps.copy_(inverse_softplus(cutpoints.diff()))
        return torch.zeros(())


class OrderedLevels(OrderedLogits):
    """With the mean and the draws of numbers."""

    @property
    def mean(self) -> Tensor:
        return (self.probs * torch.arange(self.probs.shape[-1]).to(self.probs)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.probs)
