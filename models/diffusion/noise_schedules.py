"""Noise schedules: modules whose forward takes times u in (0, 1] and returns `gamma(u) = -log SNR(u)`, increasing.

A variance-preserving diffusion has `q(x_u | x) = N(alpha x, sigma^2 I)` with `alpha^2 = sigmoid(-gamma)` and
`sigma^2 = sigmoid(gamma)`; DDPM's `alpha_bar` is `alpha^2`. With T steps the levels are `gamma(1/T), ..., gamma(1)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import NonNegative, Positive, Real, Size, checked
from ppvae.models.parts.registry import NamedPart, Registry
from ppvae.networks import inverse_softplus

LEAST_SIGNAL = 1e-5
"""The lower bound of alpha^2: without it nothing of x would be left, and log SNR would go to minus infinity."""


class LinearSchedule(nn.Module):
    """`alpha^2(u) = exp(-b0 u - (b1 - b0) u^2 / 2)`: noise is added at a rate that rises linearly from b0 to b1.

    With b0 = 0.1 and b1 = 20 it is the limit of DDPM's betas, 1e-4 to 0.02 in 1000 steps. With few steps, most
    of its levels are where there is little to learn: prefer the cosine.

    Source: Ho et al. 2020 (arXiv:2006.11239); in continuous time Song et al. 2021 (arXiv:2011.13456).

    Args:
        start: b0, the rate at u = 0.
        end: b1, the rate at u = 1.

    Raises:
        ValueError: rates that are not positive.

    Example:
        >>> LinearSchedule()(torch.tensor([0.001, 0.5, 1.0]))
        tensor([-9.1154,  2.4551, 10.0500])
    """

    @checked
    def __init__(self, start: Positive = 0.1, end: Positive = 20.0):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, u: Tensor) -> Tensor:
        return inverse_softplus(self.start * u + (self.end - self.start) * u.square() / 2)


class CosineSchedule(nn.Module):
    """`alpha^2(u) = (1 - e) cos^2(theta(u)) / cos^2(theta(0)) + e`, `theta(u) = pi/2 (u + s) / (1 + s)`, e = 1e-5.

    So it never stops falling: each of many steps adds noise that single precision can tell from none.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), who bound each step's beta by 0.999 to the same end as e.

    Args:
        offset: s; it makes even the first of many steps add some noise.

    Raises:
        ValueError: a negative offset.

    Example:
        >>> CosineSchedule()(torch.tensor([0.001, 0.5, 1.0]))
        tensor([-10.0950,   0.0246,  11.5129])
    """

    @checked
    def __init__(self, offset: NonNegative = 0.008):
        super().__init__()
        self.offset = offset

    def forward(self, u: Tensor) -> Tensor:
        quarter = math.pi / 2 / (1 + self.offset)
        first, theta = quarter * self.offset, quarter * (u + self.offset)
        # cos^2(first) - cos^2(theta), but without the cancellation
        noise = (1 - LEAST_SIGNAL) * (theta - first).sin() * (theta + first).sin()
        signal = (1 - LEAST_SIGNAL) * theta.cos().square() + LEAST_SIGNAL * math.cos(first) ** 2
        return noise.log() - signal.log()


class LearnedSchedule(nn.Module):
    """`gamma(u) = g0 + (g1 - g0) m(u)`, with a learned monotone m from 0 to 1.

    Up to shift and scale, `m(u) = w u + sum_k h_k sigmoid(r_k (u - c_k))` with positive w, h and r. It is trained
    on the bound like everything else. With many steps only its ends matter; with few it puts levels where they help
    most. It starts nearly linear.

    Source: Kingma et al. 2021 (arXiv:2107.00630).

    Args:
        start: g0 at the beginning of training.
        end: g1 at the beginning of training.
        num_units: terms of the sum.

    Raises:
        ValueError: an end that is not above the start.

    Example:
        >>> gamma = LearnedSchedule(start=-10.0, end=6.0)(torch.linspace(0.1, 1, 5))
        >>> bool((gamma.diff() > 0).all()), gamma[-1].item()
        (True, 6.0)
    """

    @checked
    def __init__(self, start: Real = -10.0, end: Real = 6.0, num_units: Size = 16):
        super().__init__()
        if not end > start:
            raise ValueError(f"end: found {end}, expected more than start, {start}")
        self.start = nn.Parameter(torch.tensor(float(start)))
        self.width = nn.Parameter(inverse_softplus(torch.tensor(float(end - start))))
        self.weight = nn.Parameter(torch.zeros(()))
        self.heights = nn.Parameter(torch.full((num_units,), -5.0))
        self.rates = nn.Parameter(inverse_softplus(torch.full((num_units,), float(num_units))))
        self.centers = nn.Parameter(torch.linspace(0, 1, num_units))

    def forward(self, u: Tensor) -> Tensor:
        first, last = self._rising(torch.tensor([0.0, 1.0]).to(u))
        return self.start + softplus(self.width) * (self._rising(u) - first) / (last - first)

    def _rising(self, u: Tensor) -> Tensor:
        steps = (softplus(self.rates) * (u.unsqueeze(-1) - self.centers)).sigmoid()
        return softplus(self.weight) * u + (softplus(self.heights) * steps).sum(-1)


@dataclass(frozen=True, kw_only=True)
class NamedSchedule(NamedPart):
    """A noise schedule by name.

    Attributes:
        make: makes the schedule with its defaults.
    """

    make: Callable[[], nn.Module]


NOISE_SCHEDULES = Registry(
    "schedule",
    "for another, pass a module of your own",
    NamedSchedule(
        name="cosine",
        module=CosineSchedule,
        summary="alpha falls as a cosine",
        source="Nichol & Dhariwal 2021",
        make=CosineSchedule,
    ),
    NamedSchedule(
        name="linear",
        module=LinearSchedule,
        summary="noise is added at a rate that rises linearly",
        source="Ho et al. 2020",
        make=LinearSchedule,
    ),
    NamedSchedule(
        name="learned",
        module=LearnedSchedule,
        summary="any increasing function, learned",
        source="Kingma et al. 2021",
        make=LearnedSchedule,
    ),
)
