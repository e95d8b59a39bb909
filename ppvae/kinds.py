"""What kind of values a distribution has: a point, discrete ones, angles, directions; and where it has them."""

import math
from typing import Any

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import MixtureSameFamily, TransformedDistribution, VonMises

from ppvae.sites import wrapped
from ppvae.splitting import SplitDistribution

CIRCULAR = (VonMises, dist.SineBivariateVonMises, dist.SineSkewed)


def innermost(fn: Any) -> Any:
    """The distribution inside masks, expansions, transforms and mixtures."""
    *_, inner = wrapped(fn)
    if isinstance(inner, TransformedDistribution):
        return innermost(inner.base_dist)
    return innermost(inner.component_distribution) if isinstance(inner, MixtureSameFamily) else inner


def parts(fn: Any, *, transformed: bool = True) -> list[Any]:
    """The distributions that one is made of, inside masks and expansions and all that it mixes.

    Args:
        fn: the distribution.
        transformed: look inside transforms, too.
    """
    *_, inner = wrapped(fn)
    if isinstance(inner, SplitDistribution) or (transformed and isinstance(inner, TransformedDistribution)):
        return parts(inner.base_dist, transformed=transformed)
    if isinstance(inner, MixtureSameFamily):
        return parts(inner.component_distribution, transformed=transformed)
    if isinstance(inner, dist.MaskedMixture):
        return [each for own in (inner.component0, inner.component1) for each in parts(own, transformed=transformed)]
    return [inner]


def is_given(fn: Any) -> bool:
    """Whether a distribution is, or may be, a Delta, whatever density it says it has."""
    return any(isinstance(part, dist.Delta) for part in parts(fn))


def is_point(fn: Any) -> bool:
    """Whether a distribution is, or may be, a Delta without a density of its own (`log_density`)."""
    return any(isinstance(part, dist.Delta) and not bool(part.log_density.any()) for part in parts(fn))


def is_discrete(fn: Any) -> bool:
    """Whether a distribution gives probabilities, not densities, to its values."""
    support = support_of(inner := innermost(fn))
    return isinstance(inner, dist.Empirical) or (support is not None and support.is_discrete)


def has_atom(fn: Any) -> bool:
    """Whether a distribution gives one of its values a probability, and the others a density."""
    return any(isinstance(p, dist.ZeroInflatedDistribution) and not is_discrete(p.base_dist) for p in parts(fn))


def is_circular(fn: Any) -> bool:
    """Whether a distribution's values are angles, from -pi to pi."""
    return any(isinstance(part, CIRCULAR) for part in parts(fn, transformed=False))


def is_moved_angle(fn: Any) -> bool:
    """Whether a distribution's values are made of angles by transforms."""
    return any(isinstance(part, CIRCULAR) for part in parts(fn)) and not is_circular(fn)


def is_sphere(fn: Any) -> bool:
    """Whether a distribution's values are vectors of length one."""
    return support_of(fn) is constraints.sphere


class Image(constraints.Constraint):
    """What transforms make of the support of their base, which may be less than all that they can give.

    torch takes `-3 + HalfNormal`, or `AffineTransform(a, b)` of `Uniform(0, 1)`, for distributions on the whole line.
    """

    def __init__(self, fn: TransformedDistribution):
        self._fn = fn

    def check(self, value: Tensor) -> Tensor:
        for transform in reversed(self._fn.transforms):
            value = transform.inv(value)
        inside = support_of(self._fn.base_dist).check(value)
        num_batch = value.dim() - len(self._fn.base_dist.event_shape)
        return inside.reshape(*inside.shape[:num_batch], -1).all(-1) if inside.dim() > num_batch else inside


def support_of(fn: Any) -> Any:
    """The support of a distribution, one turn for an angle; None if it names none."""
    if is_circular(fn):
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    *_, inner = wrapped(fn)
    if isinstance(inner, TransformedDistribution) and not _fills(inner):
        return Image(inner)
    try:
        return fn.support
    except NotImplementedError:
        return None


def _fills(fn: TransformedDistribution) -> bool:
    """Whether its base has all values that its transforms take; so it is taken if the base names no support."""
    base = support_of(fn.base_dist)
    return base is None or not fn.transforms or _plain(base) is _plain(fn.transforms[0].domain)


def _plain(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
