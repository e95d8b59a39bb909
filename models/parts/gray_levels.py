"""Distributions over gray levels: probabilities of data that are `k / (L - 1)`, k = 0 ... L - 1."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppvae.models.parts.indices import refuse_outside

TOLERANCE = 0.02
"""How far a value may be from a level, in units of the levels' spacing: 16-bit levels are off by 0.01 in float32."""
MAX_LOG_SCALE = 7.0


class GrayLevels(constraints.Constraint):
    """The support: values `k / (L - 1)`, the gray levels of `ppvae.datasets`."""

    is_discrete = True

    def __init__(self, levels: int):
        if levels < 2:
            raise ValueError(f"levels: found {levels}, expected 2 or more; 8-bit images have 256")
        self.levels, self.highest = levels, levels - 1

    def __repr__(self) -> str:
        return f"gray levels k / {self.highest}"

    def check(self, value: Tensor) -> Tensor:
        k = value * self.highest
        return (value >= 0) & (value <= 1) & ((k - k.round()).abs() < TOLERANCE)

    def refuse_outside(self, value: Tensor) -> None:
        """Raises an error that names the first value that is not a level, if any."""
        whole = value.max() <= self.highest and (value == value.long()).all()
        rounded = f"(x * {self.highest}).round() / {self.highest}"
        remedy = (
            f"pass x / {self.highest}" if whole else f"set levels= to the data's number of levels, or round: {rounded}"
        )
        refuse_outside(self, value, f"one of {self.levels} gray levels, k / {self.highest}; {remedy}")


class GrayCategorical(dist.Categorical):
    """`P(x = k / (L - 1)) = softmax(logits)_k`.

    Args:
        logits: `[*, L]`.

    Example:
        >>> GrayCategorical(logits=torch.zeros(3)).log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.3333, 0.3333, 0.3333])
    """

    has_enumerate_support = False

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return GrayLevels(self.logits.shape[-1])

    @property
    def mean(self) -> Tensor:
        return self.probs @ torch.linspace(0, 1, self.logits.shape[-1]).to(self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self.support.refuse_outside(value)
        level = (value * self.support.highest).round().long()
        level, logits = torch.broadcast_tensors(level.unsqueeze(-1), self.logits)
        return logits.gather(-1, level[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(sample_shape).to(self.logits) / self.support.highest


class DiscretizedLogisticMixture(dist.TorchDistribution):
    """A mixture of M logistics for each pixel, integrated over each level's bin; channels depend on earlier ones.

    With levels at `x = -1 ... 1`, bins of half width `h = 1 / (L - 1)`, and F the logistic distribution function,

    `P(x) = prod_pixels sum_m pi_m prod_c [F((x_c + h - mu_mc) / s_mc) - F((x_c - h - mu_mc) / s_mc)]`,

    where the bins of the lowest and the highest level extend to infinity. Earlier channels shift the locations of later
    ones, `mu_mc = loc_mc + sum_{j<c} a_mcj x_j` with `|a| < 1`. A vector is treated as an image of one channel.

    Differences are computed in logs, `F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))`, so that neither far tails nor narrow
    bins underflow. Scales are between `exp(-7)`, as in the source, and `exp(7)`.

    Source: Salimans et al. 2017 (arXiv:1701.05517).

    Args:
        parameters: `[*, P, *space]`: the M logits, the M C locations, the M C log scales, and the M C (C - 1) / 2
            numbers whose tanh is a.
        event_shape: of x: `(D,)`, or `(C, H, W)`; `space` is `(D,)` or `(H, W)`.
        levels: L, the gray levels `k / (L - 1)`.

    Raises:
        ValueError: P is not a multiple of `1 + 2 C + C (C - 1) / 2`, or L is below 2.

    Example:
        >>> p = DiscretizedLogisticMixture(torch.zeros(6, 1), (1,), levels=3)      # two components, alike
        >>> p.log_prob(torch.tensor([[0.0], [0.5], [1.0]])).exp()
        tensor([0.3775, 0.2449, 0.3775])
    """

    arg_constraints: ClassVar = {"parameters": constraints.real}

    def __init__(self, parameters: Tensor, event_shape: Any, levels: int = 256, validate_args: bool | None = None):
        event_shape = Size(event_shape)
        self.parameters, self.gray_levels = parameters, GrayLevels(levels)
        self.num_channels = 1 if len(event_shape) == 1 else event_shape[0]
        space = event_shape if len(event_shape) == 1 else event_shape[1:]
        self._space_dims, self._dim = tuple(range(-len(space), 0)), -1 - len(space)
        found, per_component = parameters.shape[self._dim], parameters_per_component(self.num_channels)
        if found % per_component:
            raise ValueError(
                f"parameters: found {found} for each pixel, expected a multiple of {per_component}: for each component "
                f"1 + 2 C + C (C - 1) / 2, with C = {self.num_channels}; change the network's number of outputs"
            )
        self.num_components = found // per_component
        super().__init__(parameters.shape[: self._dim], event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.gray_levels, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """`E[x]`, from the probabilities of exceeding each level.

        Within each component, later channels are taken at the means of earlier ones. This is exact, except that
        clipping to [0, 1] and rounding are not averaged over the spread about those means.
        """
        logits, loc, log_scale, coefficients = self._parts()
        means: list[Tensor] = []
        for c in range(self.num_channels):
            location, scale = self._location(c, loc, coefficients, means), log_scale.select(self._dim, c).exp()
            level = torch.zeros_like(location)
            for k in range(1, self.gray_levels.levels):  # bins k - 1 and k meet at (2 k - 1) h - 1
                level = level + torch.sigmoid((location + 1 - (2 * k - 1) / self.gray_levels.highest) / scale)
            means.append(self._scaled(level))
        return self._to_event(
            (logits.softmax(self._dim).unsqueeze(self._dim) * torch.stack(means, self._dim)).sum(self._dim - 1)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self.gray_levels.refuse_outside(value)
        logits, loc, log_scale, coefficients = self._parts()
        x = 2 * (value if self._dim == -3 else value.unsqueeze(-2)).unsqueeze(self._dim - 1) - 1  # [*, 1, C, *space]
        channels = x.unbind(self._dim)
        centered = torch.stack(
            [x_c - self._location(c, loc, coefficients, channels) for c, x_c in enumerate(channels)], self._dim
        )
        h, precision = 1 / self.gray_levels.highest, (-log_scale).exp()
        below, above = logsigmoid((centered + h) * precision), logsigmoid((h - centered) * precision)
        width = (-torch.expm1(-2 * h * precision)).log()
        lowest, highest = x < h - 1, x > 1 - h
        below, above = below.masked_fill(highest, 0.0), above.masked_fill(lowest, 0.0)
        log_p = below + above + width.masked_fill(lowest | highest, 0.0)
        pixels = (logits.log_softmax(self._dim) + log_p.sum(self._dim)).logsumexp(self._dim)
        return pixels.sum(self._space_dims)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        logits, *parts = (part.expand(*sample_shape, *part.shape) for part in self._parts())
        component = dist.Categorical(logits=logits.movedim(self._dim, -1)).sample()
        index = component.unsqueeze(self._dim).unsqueeze(self._dim)  # [*, 1, 1, *space]
        loc, log_scale, coefficients = (
            part.take_along_dim(index, self._dim - 1).squeeze(self._dim - 1) for part in parts
        )
        noise = log_scale.exp() * torch.rand_like(loc).clamp(min=torch.finfo(loc.dtype).tiny).logit()
        drawn: list[Tensor] = []
        for c in range(self.num_channels):
            x = self._location(c, loc, coefficients, drawn) + noise.select(self._dim, c)
            drawn.append(self._scaled(((x + 1) / 2 * self.gray_levels.highest).round()).clamp(-1, 1))
        return self._to_event(torch.stack(drawn, self._dim))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogisticMixture":
        parameters = self.parameters.expand(*batch_shape, *self.parameters.shape[self._dim :])
        return type(self)(parameters, self.event_shape, self.gray_levels.levels, validate_args=self._validate_args)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits `[*, M, *space]`; locations, log scales and coefficients `[*, M, n, *space]`."""
        M, C = self.num_components, self.num_channels
        sizes = [C, C, C * (C - 1) // 2]
        logits, *parts = self.parameters.split([M, *(M * size for size in sizes)], self._dim)
        loc, log_scale, coefficients = (
            part.unflatten(self._dim, (M, size)) for part, size in zip(parts, sizes, strict=True)
        )
        return logits, loc, log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE), coefficients.tanh()

    def _location(self, c: int, loc: Tensor, coefficients: Tensor, channels: Sequence[Tensor]) -> Tensor:
        """The locations of channel c, given the earlier channels."""
        location, first = loc.select(self._dim, c), c * (c - 1) // 2
        for j in range(c):
            location = location + coefficients.select(self._dim, first + j) * channels[j]
        return location

    def _scaled(self, level: Tensor) -> Tensor:
        """Levels 0 ... L - 1 as -1 ... 1."""
        return 2 * level / self.gray_levels.highest - 1

    def _to_event(self, x: Tensor) -> Tensor:
        """Channels `[*, C, *space]` in -1 ... 1 as data in 0 ... 1."""
        return (x + 1) / 2 if self._dim == -3 else (x.squeeze(-2) + 1) / 2


def parameters_per_component(num_channels: int) -> int:
    """For each component of a pixel: one logit, C locations, C scales, and a coefficient for each pair of channels."""
    return 1 + 2 * num_channels + num_channels * (num_channels - 1) // 2
