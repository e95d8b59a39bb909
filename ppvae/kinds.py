"""What kind of values a distribution has: a point, discrete ones, angles, directions; and where it has them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import (
    ComposeTransform,
    IndependentTransform,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    VonMises,
    biject_to,
)

from ppvae.sites import wrapped
from ppvae.splitting import SplitDistribution, split_constraint

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


def is_improper(fn: Any) -> bool:
    """Whether a distribution is, or may be, one whose density does not integrate to one."""
    return any(isinstance(part, dist.ImproperUniform) for part in parts(fn))


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
    """What transforms make of the values that they are given, which may be less than all that they can give.

    torch takes `-3 + HalfNormal`, or `AffineTransform(a, b)` of `Uniform(0, 1)` or of a sigmoid, for distributions on
    the whole line.

    Args:
        source: the support of the values that are given.
        transforms: what is made of these, in order.
        event_dim: of the result.
    """

    def __init__(self, source: Any, transforms: Sequence[Transform], event_dim: int):
        self.source, self.transforms, self._event_dim = source, tuple(transforms), event_dim

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return self._event_dim

    def check(self, value: Tensor) -> Tensor:
        shape = value.shape[: value.dim() - self.event_dim]
        inside = value.new_ones(shape, dtype=torch.bool)
        for transform in reversed(self.transforms):
            inside = inside & _all_of_events(transform.codomain.check(value), shape)
            value = transform.inv(value)
        return inside & _all_of_events(self.source.check(value), shape)


def _all_of_events(inside: Tensor, shape: torch.Size) -> Tensor:
    return inside.flatten(len(shape)).all(-1) if inside.dim() > len(shape) else inside


@biject_to.register(Image)
def _onto_image(image: Image) -> Transform:
    if not all(transform.bijective for transform in image.transforms):
        raise NotImplementedError("its transforms are not one to one")
    return ComposeTransform([biject_to(image.source), *image.transforms])


def support_of(fn: Any) -> Any:
    """The support of a distribution, one turn for an angle; None if it names none."""
    if is_circular(fn):
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    if (image := image_of(fn)) is not None:
        return image
    try:
        return fn.support
    except NotImplementedError:
        return None


def image_of(fn: Any) -> Any:
    """The support of what transforms make of a part of their domain; None where they are given all of it."""
    *_, inner = wrapped(fn)
    image = None
    if isinstance(inner, SplitDistribution):
        base = image_of(inner.base_dist)
        image = base and split_constraint(base, inner.num_further + inner.event_dim, inner.particles)
    elif isinstance(inner, MixtureSameFamily):
        base = image_of(inner.component_distribution)
        image = base and constraints.MixtureSameFamilyConstraint(base)
    elif type(inner).support is TransformedDistribution.support:  # else it says itself what it is
        image = _transformed(inner)
    further = 0 if image is None else len(fn.event_shape) - image.event_dim
    return constraints.independent(image, further) if further else image


def _transformed(fn: TransformedDistribution) -> Image | None:
    source: Any = support_of(fn.base_dist)
    beyond: list[Transform] = []
    for step in _steps(fn.transforms):
        if beyond or not (source is None or _plain(source) is _plain(step.domain)):
            beyond.append(step)
        else:
            source = step.codomain
    return Image(source, beyond, len(fn.event_shape)) if beyond else None


def _steps(transforms: Iterable[Transform]) -> Iterator[Transform]:
    """The transforms, without those that only put others together."""
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from _steps(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from _steps([transform.base_transform])
        else:
            yield transform


def _plain(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
