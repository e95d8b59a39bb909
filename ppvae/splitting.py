"""K*B rows as K particles of B data points, and back: for tensors and for distributions."""

import copy
from typing import Any, ClassVar

import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints, kl_divergence, register_kl

from ppvae.internals import with_validation_of
from ppvae.rebuilding import arguments, further_arguments, with_arguments, with_parts

Shape = tuple[int, int]
"""`(K, B)`"""
LIBRARIES = ("torch.distributions.", "pyro.distributions.")
"""Where torch's and Pyro's own distributions and constraints are."""


def split(rows: Tensor, event_dim: int, shape: Shape) -> Tensor:
    """`[..., K*B, *event]` as `[..., K, B, *event]`; where there is one row for all, `[..., 1, 1, *event]`.

    Row `k * B + b` is particle k of data point b.

    Example:
        >>> split(torch.arange(6), 0, (2, 3))
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    dim = rows.dim() - event_dim - 1
    if dim < 0:
        return rows
    if rows.shape[dim] == 1:
        return rows.unsqueeze(dim)
    return rows.unflatten(dim, shape)


def merged(t: Tensor, event_dim: int, shape: Shape) -> Tensor:
    """The inverse of `split`.

    Example:
        >>> merged(torch.tensor([[0], [1]]), 0, (2, 3))
        tensor([0, 0, 0, 1, 1, 1])
    """
    batch, event = t.shape[: t.dim() - event_dim], t.shape[t.dim() - event_dim :]
    if batch[-2:].numel() == 1:
        return t.squeeze(len(batch) - 1) if len(batch) > 1 else t
    return t.expand(*batch[:-2], *shape, *event).flatten(max(len(batch), 2) - 2, max(len(batch), 2) - 1)


def split_distribution(fn: Any, shape: Shape) -> Any:
    """A distribution of batch shape `[..., K*B]` as one of batch shape `[..., K, B]`.

    One of torch's or Pyro's stays of its family where its arguments can be split; any other is a `SplitDistribution`.
    """
    if not fn.batch_shape:
        return fn
    dim = len(fn.batch_shape) - 1
    return with_parts(fn, lambda part: _split_part(part, dim, shape), lambda mask: _split_at(mask, dim, shape))


def _split_part(fn: Any, dim: int, shape: Shape) -> Any:
    if type(fn).__module__.startswith(LIBRARIES):
        old = {name: getattr(fn, name) for name in arguments(fn)}
        num_dims = {name: len(fn.batch_shape) + _event_dim(fn, name) for name in old}
        known = all(isinstance(value, Tensor) and value.dim() == num_dims[name] for name, value in old.items())
        if old and known and not any(map(_may_differ_by_row, further_arguments(fn).values())):
            result = with_arguments(fn, {name: _split_at(value, dim, shape) for name, value in old.items()})
            if (result.batch_shape, result.event_shape) == (_split_shape(fn.batch_shape, dim, shape), fn.event_shape):
                return with_validation_of(fn, result)
    return SplitDistribution(fn, dim, shape)


def _may_differ_by_row(argument: Any) -> bool:
    return isinstance(argument, Distribution) or (isinstance(argument, Tensor) and argument.dim() > 0)


def _split_at(t: Any, dim: int, shape: Shape) -> Any:
    return split(t, t.dim() - dim - 1, shape) if isinstance(t, Tensor) else t


def _split_shape(batch_shape: torch.Size, dim: int, shape: Shape) -> torch.Size:
    own = (1, 1) if batch_shape[dim] == 1 else shape
    return torch.Size((*batch_shape[:dim], *own, *batch_shape[dim + 1 :]))


def split_constraint(constraint: Any, event_dim: int, shape: Shape) -> Any:
    """A support, such as an interval whose ends differ by row, or what transforms make of it.

    Values are checked as rows, by the constraint itself: a tensor that it holds need not have the rows' dimension.
    """
    changed: dict[str, Any] = {}
    for name, value in vars(constraint).items():
        if isinstance(value, constraints.Constraint):
            changed[name] = split_constraint(value, event_dim, shape)
        elif isinstance(value, Tensor) and _may_have_rows(value, event_dim, shape):
            changed[name] = split(value, event_dim, shape)
        elif isinstance(value, list) and all(isinstance(each, constraints.Constraint) for each in value):
            changed[name] = [split_constraint(each, event_dim, shape) for each in value]
        elif isinstance(value, tuple) and all(isinstance(each, Transform) for each in value):
            changed[name] = tuple(SplitTransform(each, event_dim, shape) for each in value)
    if not changed and type(constraint).__module__.startswith(LIBRARIES):
        return constraint

    def check(value: Tensor) -> Tensor:
        rows = merged(value, event_dim, shape)
        inside = constraint.check(rows)
        return split(inside, event_dim - rows.dim() + inside.dim(), shape)

    result = copy.copy(constraint)
    vars(result).update(changed, check=check)
    return result


def _may_have_rows(t: Tensor, event_dim: int, shape: Shape) -> bool:
    return t.dim() > event_dim and t.shape[-event_dim - 1] in (1, shape[0] * shape[1])


class SplitTransform(Transform):
    """A transform of `[..., K*B, *event]` as one of `[..., K, B, *event]`.

    Args:
        base: the transform.
        event_dim: the number of dimensions after that of the rows.
        shape: `(K, B)`.
    """

    def __init__(self, base: Any, event_dim: int, shape: Shape):
        super().__init__()
        self._base, self._event_dim, self._shape = base, event_dim, shape
        self.bijective = base.bijective
        self.domain, self.codomain = (split_constraint(c, event_dim, shape) for c in (base.domain, base.codomain))

    def _call(self, x: Tensor) -> Tensor:
        return split(self._base(self._merged(x)), self._event_dim, self._shape)

    def _inverse(self, y: Tensor) -> Tensor:
        return split(self._base.inv(self._merged(y)), self._event_dim, self._shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        log_det = self._base.log_abs_det_jacobian(self._merged(x), self._merged(y))
        return split(log_det, self._event_dim - self._base.domain.event_dim, self._shape)

    def _merged(self, t: Tensor) -> Tensor:
        return merged(t, self._event_dim, self._shape)


def _event_dim(fn: Any, name: str) -> int:
    """The number of event dimensions of a distribution's argument."""
    try:
        return fn.arg_constraints[name].event_dim
    except NotImplementedError:  # Delta's value may be anything
        return fn.event_dim


class SplitDistribution(TorchDistribution):
    """Any distribution of batch shape `[..., K*B, ...]` as one of batch shape `[..., K, B, ...]`.

    Args:
        base_dist: the distribution.
        dim: where in its batch shape the rows are.
        shape: `(K, B)`.

    Example:
        >>> import pyro.distributions as dist
        >>> flow = dist.TransformedDistribution(dist.Normal(torch.zeros(6), 1.0), dist.transforms.SigmoidTransform())
        >>> SplitDistribution(flow, 0, (2, 3)).log_prob(torch.full((2, 3), 0.5)).shape
        torch.Size([2, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]

    def __init__(self, base_dist: Any, dim: int, shape: Shape):
        self.base_dist, self.particles = base_dist, shape
        self._drawn: tuple[Tensor, Tensor] | None = None
        self.num_further = len(base_dist.batch_shape) - 1 - dim
        batch_shape = _split_shape(base_dist.batch_shape, dim, shape)
        super().__init__(batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_enumerate_support

    @property
    def mean_is_drawn(self) -> bool:
        return getattr(self.base_dist, "mean_is_drawn", False)

    @property
    def support(self) -> Any:
        return split_constraint(self.base_dist.support, self.num_further + self.event_dim, self.particles)

    @property
    def mean(self) -> Tensor:
        return self._split(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        return self._split(self.base_dist.variance)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._keep(self.base_dist.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._keep(self.base_dist(torch.Size(sample_shape)))  # as Pyro calls it: some have nothing else

    def log_prob(self, value: Tensor) -> Tensor:
        return split(self.base_dist.log_prob(self._merged(value)), self.num_further, self.particles)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        parts = self.base_dist.score_parts(self._merged(x), *args, **kwargs)
        return ScoreParts(
            *(split(part, self.num_further, self.particles) if isinstance(part, Tensor) else part for part in parts)
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self._split(self.base_dist.enumerate_support(expand=False))
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return self if torch.Size(batch_shape) == self.batch_shape else super().expand(batch_shape)

    def _split(self, t: Tensor) -> Tensor:
        return split(t, self.num_further + self.event_dim, self.particles)

    def _keep(self, drawn: Tensor) -> Tensor:
        """A flow without an inverse knows the density of its own last draw, by its identity."""
        self._drawn = (self._split(drawn), drawn)
        return self._drawn[0]

    def _merged(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        return merged(value, self.num_further + self.event_dim, self.particles)


@register_kl(SplitDistribution, SplitDistribution)
def _kl(q: SplitDistribution, p: SplitDistribution) -> Tensor:
    return _kl_by_rows(q, q.base_dist, p.base_dist)


@register_kl(SplitDistribution, Distribution)
def _kl_of_split(q: SplitDistribution, p: Distribution) -> Tensor:
    return _kl_by_rows(q, q.base_dist, _merged_distribution(p, q))


@register_kl(Distribution, SplitDistribution)
def _kl_from_split(q: Distribution, p: SplitDistribution) -> Tensor:
    return _kl_by_rows(p, _merged_distribution(q, p), p.base_dist)


def _kl_by_rows(like: SplitDistribution, q: Any, p: Any) -> Tensor:
    return split(kl_divergence(q, p), like.num_further, like.particles)


def _merged_distribution(fn: Any, like: SplitDistribution) -> Any:
    """A distribution that was split as one of its family, whole again; one without arguments, as a flow, never was."""
    dim = len(like.batch_shape) - 1 - like.num_further  # of the data points

    def part(fn: Any) -> Any:
        old = {name: getattr(fn, name) for name in arguments(fn)}
        if not old:
            raise NotImplementedError(f"no KL of {type(fn).__name__} in closed form")
        return with_arguments(fn, {name: merged(t, t.dim() - dim - 1, like.particles) for name, t in old.items()})

    return with_parts(fn, part)
