"""Whether a guide's density may be held against the model's: of the same kind, and wherever the model has one.

`log p(x, z) - log q(z | x)` is a weight only if p and q are densities of z of the same kind: both of a number on the
line, both of an angle, or both probabilities of a value. And log p(x) is the log of the weights' mean only if the guide
gives a density to every z that the model gives one.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import MixtureSameFamily, TransformedDistribution, VonMises, biject_to

from ppvae.batches import Batch
from ppvae.model_and_guide import ModelAndGuide
from ppvae.refusals import ContractError, family
from ppvae.sites import presence, sample_sites, wrapped
from ppvae.tracing import Joint, trace_model
from ppvae.weights import sum_terms

TURN = 2 * math.pi
CIRCULAR = (VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
REACH = (-30.0, -3.0, -0.3, 0.0, 0.3, 3.0, 30.0)
"""Numbers on the line that stand for all of a support, once mapped onto it."""
MOST_DRAWS = 64
ROUNDING = 1e-3


def innermost(fn: Any) -> Any:
    """The distribution inside masks, expansions, transforms and mixtures."""
    *_, inner = wrapped(fn)
    if isinstance(inner, TransformedDistribution):
        return innermost(inner.base_dist)
    return innermost(inner.component_distribution) if isinstance(inner, MixtureSameFamily) else inner


def is_point(fn: Any) -> bool:
    """Whether a distribution is a Delta without a density of its own (`log_density`)."""
    inner = innermost(fn)
    return isinstance(inner, dist.Delta) and not bool(inner.log_density.any())


def is_discrete(fn: Any) -> bool:
    """Whether a distribution gives probabilities, not densities, to its values."""
    support = support_of(inner := innermost(fn))
    return isinstance(inner, dist.Empirical) or (support is not None and support.is_discrete)


def is_circular(fn: Any) -> bool:
    """Whether a distribution's values are angles."""
    *_, inner = wrapped(fn)
    return isinstance(inner, CIRCULAR)


def is_sphere(fn: Any) -> bool:
    """Whether a distribution's values are vectors of length one."""
    return support_of(fn) is constraints.sphere


def support_of(fn: Any) -> Any:
    """The support of a distribution, one turn for an angle; None if it names none."""
    if is_circular(fn):
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    try:
        return fn.support
    except NotImplementedError:
        return None


def refuse_unlike(joint: Joint) -> None:
    """Refuses, by name, a guide site whose density is of another kind than the model's.

    Raises:
        ppvae.ContractError: with the site, and what to put in its place.
    """
    for name, (q, p) in _latents(joint).items():
        if is_point(q) and not (is_point(p) or is_discrete(p)):
            raise ContractError(
                f"guide site '{name}': found Delta, a point without a density, for a latent that has one in the model "
                f"({family(p)}), expected a guide with a density, as log q and every bound on log p(x) is infinite or "
                "undefined without; train with it if you like (that is MAP), and to measure put a distribution about "
                "the point, such as Normal(point, scale) with a learned scale"
            )
        if not (is_point(q) or is_point(p)) and is_discrete(q) != is_discrete(p):
            raise ContractError(
                f"guide site '{name}': found {family(q)}, which is {_kind(q)}, for {family(p)} in the model, which is "
                f"{_kind(p)}, expected both of one kind, as a density and a probability make no weight together; take "
                "the same family in the guide"
            )
        if is_sphere(q) != is_sphere(p):
            raise ContractError(
                f"guide site '{name}': found {family(q)} for {family(p)} in the model, expected vectors of length one "
                "in both or in neither; take ProjectedNormal in the guide of such a latent"
            )
        if is_circular(p) and not is_circular(q) and _spread(q, _site(joint, name)["value"]) > TURN * 1.000001:
            raise ContractError(
                f"guide site '{name}': found {family(q)}, which is on the line, for an angle ({family(p)} in the "
                "model), expected one turn of the circle, as z and z + 2 pi are the same angle and count twice; take "
                "VonMises in the guide"
            )


def refuse_unlike_support(pair: ModelAndGuide, batch: Batch, joint: Joint, why: str) -> None:
    """Refuses, by name, a guide site that leaves latents out, or draws some that the model has not.

    Args:
        pair: the model and guide.
        batch: B data points.
        joint: a run on them.
        why: what that would spoil, and the remedy, to end the message.

    Raises:
        ppvae.ContractError: with the site.
    """
    for name, (q, p) in _latents(joint).items():
        like = _site(joint, name)["value"]
        if _left_out(pair, batch, joint, name).any() or _outside(p, q, like).any():
            raise ContractError(
                f"guide site '{name}': found {family(q)} for {family(p)} in the model, expected the same support in "
                f"both, {why}"
            )


def left_out(pair: ModelAndGuide, batch: Batch, joint: Joint) -> Tensor:
    """Data points whose guide gives probability zero to latents under which x has some: a mask, `[B]`.

    Tried are all values of a discrete latent with finitely many, the same for each of the event's entries; a few draws
    from one with infinitely many; and numbers over the whole support of a continuous one. Other latents are the run's.

    Args:
        pair: the model and guide.
        batch: B data points.
        joint: a run of one particle.
    """
    found = [torch.zeros(joint.shape[1], dtype=torch.bool)]
    found += [_left_out(pair, batch, joint, name).cpu() for name in sample_sites(joint.guide)]
    return torch.stack(found).any(0)


def _left_out(pair: ModelAndGuide, batch: Batch, joint: Joint, name: str) -> Tensor:
    """The same for one site."""
    latents = {
        other: site["value"].expand(*joint.shape, *site["fn"].event_shape)
        for other, site in sample_sites(joint.guide).items()
    }
    q, p = _latents(joint)[name]
    points, outside = _values(p, latents[name]), _outside(q, p, latents[name])
    while outside.dim() > 3:  # the values of latents that are summed out
        points, outside = None if points is None else points[:, 0], outside.any(1)
    if points is None or not outside.any():
        return torch.zeros(joint.shape[1], dtype=torch.bool)
    num = len(points)
    given = {other: z.expand(num, *z.shape[1:]) for other, z in latents.items()} | {name: points[:, 0]}
    log_p = sum_terms(trace_model(pair, batch, given, num).log_p_terms())
    return (outside[:, 0] & log_p.isfinite()).any(0).cpu() & _is_there(joint, name)


def has_discrete(joint: Joint) -> Tensor:
    """Data points for which the guide draws a discrete latent: a mask, `[B]`."""
    found = [torch.zeros(joint.shape[1], dtype=torch.bool)]
    found += [_is_there(joint, name) for name, (_, p) in _latents(joint).items() if is_discrete(p)]
    return torch.stack(found).any(0)


def _is_there(joint: Joint, name: str) -> Tensor:
    """Data points for which a latent of the guide is not masked, `[B]`."""
    there = presence(site := _site(joint, name))
    if there is None:
        return torch.ones(joint.shape[1], dtype=torch.bool)
    return there.expand(*joint.shape, *site["fn"].event_shape).transpose(0, 1).flatten(1).any(1).cpu()


def _site(joint: Joint, name: str) -> Any:
    return joint.guide.nodes[name]


def _latents(joint: Joint) -> dict[str, tuple[Any, Any]]:
    """The distributions of the guide's sites, in the guide and in the model."""
    model = sample_sites(joint.model)
    return {name: (site["fn"], model[name]["fn"]) for name, site in sample_sites(joint.guide).items()}


def _kind(fn: Any) -> str:
    return "discrete" if is_discrete(fn) else "continuous"


def _outside(q: Any, p: Any, like: Tensor) -> Tensor:
    """Which values of p have no probability under q, `[S, *batch of p]`."""
    points, support = _values(p, like), support_of(q)
    if points is None or support is None:
        return torch.zeros(1, *p.batch_shape, dtype=torch.bool)
    inside = _checked(support, points, p)
    if is_discrete(p):
        return _is_possible(p, points, p) & ~(inside & _is_possible(q, points, p))
    return _checked(support_of(p), points, p) & ~inside


def _is_possible(fn: Any, points: Tensor, like: Any) -> Tensor:
    """Whether each entry of points has a probability, by the batch shape of `like`; torch has the machine's epsilon for
    zero."""
    *_, inner = wrapped(fn)
    log_prob = inner.log_prob(points)
    possible = log_prob > math.log(torch.finfo(log_prob.dtype).eps) + ROUNDING
    return possible.reshape(*possible.shape[: 1 + len(like.batch_shape)], -1).all(-1)


def _checked(support: Any, points: Tensor, fn: Any) -> Tensor:
    """Whether points are inside a support, by batch shape."""
    inside = support.check(points)
    return inside.reshape(*inside.shape[: 1 + len(fn.batch_shape)], -1).all(-1)


def _values(fn: Any, like: Tensor) -> Tensor | None:
    """Values of a distribution that stand for all that it has, `[S, *batch, *event]`; None where none are known."""
    shape, inner, support = fn.batch_shape + fn.event_shape, innermost(fn), support_of(fn)
    if isinstance(inner, dist.Delta) or support is None:
        return None
    if inner.has_enumerate_support:
        values = inner.enumerate_support(expand=False)
        num, own = len(values), inner.event_shape
        return values.reshape(num, *(1,) * (len(shape) - len(own)), *own).expand(num, *shape)
    if support.is_discrete:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            return fn.sample((MOST_DRAWS,))
    try:
        bijection = biject_to(support)
    except NotImplementedError:
        return None
    return torch.stack([bijection(like.new_full(bijection.inverse_shape(shape), u)) for u in REACH])


def _spread(fn: Any, like: Tensor) -> float:
    """How far apart a distribution's values can be, in each of its entries."""
    values = _values(fn, like)
    return math.inf if values is None else float((values.amax(0) - values.amin(0)).max())
