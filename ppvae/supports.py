"""Whether a guide's density may be held against the model's: of the same kind, and wherever the model has one.

`log p(x, z) - log q(z | x)` is a weight only if p and q are densities of z of the same kind: both of a number on the
line, both of an angle, or both probabilities of a value. And log p(x) is the log of the weights' mean only if the guide
gives a density to every z that the model gives one.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import TransformedDistribution, biject_to

from ppvae.batches import Batch
from ppvae.contract import check_masks, drawn_once
from ppvae.kinds import (
    has_atom,
    image_of,
    innermost,
    is_circular,
    is_discrete,
    is_improper,
    is_moved_angle,
    is_point,
    is_sphere,
    support_of,
)
from ppvae.model_and_guide import ModelAndGuide
from ppvae.refusals import ContractError, family
from ppvae.sites import presence, sample_sites, wrapped
from ppvae.splitting import SplitDistribution
from ppvae.tracing import Joint, trace_model, trace_pair
from ppvae.weights import sum_terms

Answer = TypeVar("Answer")

TURN = 2 * math.pi
REACH = (-30.0, -3.0, -0.3, 0.0, 0.3, 3.0, 30.0)
"""Numbers on the line that stand for all of a support, once mapped onto it."""
MOST_DRAWS = 64
RUNS = 16
"""Draws of all latents, at each of which every latent is tried."""
ROUNDING = 1e-3


def refuse_unlike(joint: Joint) -> None:
    """Refuses, by name, a guide site whose density is of another kind than the model's, or there for other data points.

    Raises:
        ppvae.ContractError: with the site, and what to put in its place.
    """
    check_masks(joint)
    for name, (q, p) in _latents(joint).items():
        for role, fn in (("guide", q), ("model", p)):
            _refuse_without_density(f"{role} site '{name}'", fn, _site(joint, name)["value"])
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
        if image_of(p) is not None and _has_density_outside(p, q, _site(joint, name)["value"]):
            raise ContractError(
                f"guide site '{name}': found {family(q)}, which has values outside the model's support ({family(p)}), "
                "expected none, as torch takes them for values of the last of the model's transforms, and gives them a "
                "density; take the model's transforms in the guide, too"
            )


def _refuse_without_density(where: str, fn: Any, like: Tensor) -> None:
    """Refuses a distribution of a latent that has no density that could be held against another's."""
    if has_atom(fn):
        raise ContractError(
            f"{where}: found {family(fn)}, which gives a probability to one value and a density to all others, "
            "expected one of the two, as log q and log p of such draws make no weight; draw what decides, a Bernoulli, "
            "and the value as two latents"
        )
    if is_improper(fn):
        raise ContractError(
            f"{where}: found {family(fn)}, whose density does not integrate to one, expected one that does, as log "
            "p(x) is undefined without; train with it if you like, and to measure take a wide distribution of the same "
            "support, such as Normal(0.0, 100.0), or Uniform where it has two ends"
        )
    if is_moved_angle(fn):
        raise ContractError(
            f"{where}: found transforms of an angle ({family(innermost(fn))}), expected the angle itself, as z and "
            "z + 2 pi have one density there and count twice; draw the angle, and apply the transforms to it in the "
            "model"
        )
    if (transform := _left_domain(fn, like)) is not None:
        raise ContractError(
            f"{where}: found {type(transform).__name__} of values outside its domain, expected a distribution inside "
            "it, as torch takes a value for that of one number of the domain alone, and its density is not that of its "
            "draws; make them positive first (ExpTransform, HalfNormal), or draw the number and apply the transform to "
            "it in the model"
        )


def _left_domain(fn: Any, like: Tensor) -> Any:
    """A transform that is given values for which it is not meant; None if all are."""
    *_, inner = wrapped(fn)
    if isinstance(inner, SplitDistribution):
        inner = inner.base_dist
    if image_of(inner) is None or not isinstance(inner, TransformedDistribution):
        return None
    if (points := _values(inner.base_dist, like)) is not None:
        for transform in inner.transforms:
            if (points.isfinite() & ~_by_entry(transform.domain, points)).any():
                return transform
            points = transform(points)
    return None


def _by_entry(support: Any, points: Tensor) -> Tensor:
    """Whether points are inside a support, for each of their entries."""
    inside = support.check(points)
    return inside.reshape(*inside.shape, *(1,) * (points.dim() - inside.dim()))


def refuse_fixed(joint: Joint) -> None:
    """Refuses, by name, a guide's Delta that says it has a density, and has one value for all particles."""
    for name in sorted(drawn_once(joint)):
        raise ContractError(
            f"guide site '{name}': found Delta with a log_density, and one value for all particles, expected draws of "
            "that density; draw its noise for each particle, or take a distribution about the point, such as "
            "Normal(point, scale)"
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
        if _left_out(pair, batch, joint, name, q, p).any() or _outside(p, q, like).any():
            raise ContractError(
                f"guide site '{name}': found {family(q)} for {family(p)} in the model, expected the same support in "
                f"both, {why}"
            )


def at_some_draws(pair: ModelAndGuide, batch: Batch, ask: Callable[[Joint], Answer]) -> list[Answer]:
    """What is asked of runs of one particle, of which there are some where what a site leaves out may depend on others.

    No generator moves.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        first = trace_pair(pair, batch, 1)
        more = RUNS - 1 if len(sample_sites(first.guide)) > 1 else 0
        return [ask(first), *(ask(trace_pair(pair, batch, 1)) for _ in range(more))]


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
    found += [_left_out(pair, batch, joint, name, q, p).cpu() for name, (q, p) in _latents(joint).items()]
    return torch.stack(found).any(0)


def _left_out(pair: ModelAndGuide, batch: Batch, joint: Joint, name: str, q: Any, p: Any) -> Tensor:
    """The same for one site, with its distributions in guide and model."""
    like = _site(joint, name)["value"]
    points, outside = _values(p, like), _outside(q, p, like)
    while outside.dim() > 3:  # the values of latents that are summed out
        points, outside = None if points is None else points[:, 0], outside.any(1)
    if points is None or not outside.any():
        return torch.zeros(joint.shape[1], dtype=torch.bool)
    num = len(points)
    latents = {
        other: site["value"].expand(*joint.shape, *site["fn"].event_shape)
        for other, site in sample_sites(joint.guide).items()
    }
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


def _has_density_outside(p: Any, q: Any, like: Tensor) -> bool:
    """Whether p has a density of some values of q that are outside its support."""
    points, outside = _values(q, like), _outside(p, q, like)
    if points is None or not outside.any():
        return False
    with pyro.validation_enabled(False):
        return bool((p.log_prob(points).isfinite() & outside).any())


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
