"""The moments of angles: those of their directions in the plane, as an average of angles depends on where they wrap."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import VonMises

from ppvae.sites import wrapped


def is_drawn(fn: Any) -> bool:
    """Whether a distribution of angles has no formula for its resultant."""
    *_, inner = wrapped(fn)
    return not isinstance(inner, VonMises)


def resultant(fn: Any) -> Tensor:
    """`E[(cos z, sin z)]`, `[..., 2]`, of a distribution of angles; that of a draw where there is no formula."""
    if is_drawn(fn):
        value = fn.sample()
        return torch.stack([value.cos(), value.sin()], -1)
    length = 1 - fn.variance  # torch's variance is the circular one
    return length.unsqueeze(-1) * torch.stack([fn.mean.cos(), fn.mean.sin()], -1)


def moved(angle: Tensor, by: Tensor) -> Tensor:
    """The angle, in [-pi, pi), that another is turned to."""
    return (angle + by + math.pi).remainder(2 * math.pi) - math.pi


def direction(resultant: Tensor) -> Tensor:
    """The circular mean, in (-pi, pi], of a resultant `[..., 2]`."""
    return torch.atan2(resultant[..., 1], resultant[..., 0])


def spread(resultant: Tensor) -> Tensor:
    """The circular standard deviation, `sqrt(-2 log R)`: near the ordinary one where angles are close together.

    Source: Mardia 1972, Statistics of Directional Data, section 3.4.
    """
    return (-2 * resultant.norm(dim=-1).clamp(max=1).log()).sqrt()
