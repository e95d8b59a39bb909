"""The check that a pair keeps the contract: one plate at dim -1 over the batch, every site in it, shapes as declared.

Each refusal names the site, what was found, what was expected, and the usual remedies.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, rows
from ppvae.explanations import failures_explained, found_outside, into_support, without_tensors
from ppvae.internals import enumeration_dim
from ppvae.kinds import is_discrete, is_given, is_point
from ppvae.layouts import InLayout, difference_from, refuse_mixed_rows
from ppvae.model_and_guide import ModelAndGuide
from ppvae.own_rows import refuse_other_number, rows_or_all
from ppvae.parameters import OwnStatements
from ppvae.particles import LEADING, ROWS, layout_of, run
from ppvae.refusals import ContractError, SupportError, family
from ppvae.sites import has_own_term, is_auxiliary, presence, sample_sites
from ppvae.tracing import Joint, trace_guide, with_model

MAX_ROWS = 7
SAME_SUPPORT = "let the guide draw inside it, as a distribution of the same support does"


class Found(NamedTuple):
    """How a pair is to be run with particles.

    Attributes:
        particles: the layout.
        guide_leads: whether the guide is right with particles leading where the model is run by rows.
        reason: why it is not run with particles leading, if it asks for that.
    """

    particles: str
    guide_leads: bool = False
    reason: str = ""


@torch.no_grad()
def check(pair: ModelAndGuide, batch: Batch, in_vain: bool) -> Found:
    """Runs a pair on a few rows of `batch` and raises `ContractError` at the first breach.

    Two batch sizes are tried, each with another number of particles, so that no event dimension can pass for the
    batch's by having its size. A guide that takes its own rows only is run on all of them.

    Args:
        pair: the model and guide.
        batch: some data.
        in_vain: whether the guide may draw latents to which the model gives no density.

    Returns:
        How it is to be run with particles.
    """
    refuse_other_number(pair, batch)
    size = min(num_rows(batch), MAX_ROWS)
    few: list[Batch] = []
    summed: set[str] = set()
    for n in {size, max(1, size - 1)}:
        few.append(part := rows_or_all(pair, batch, slice(n)))
        with OwnStatements("guide", pair):
            guide = run_alone("guide", pair.guide, part)
        _check_plates("guide", guide, num_rows(part))
        alone = partial(run_alone, "model", pair.model, rows(batch, slice(n)))
        with OwnStatements("model", pair):
            model = of_model(alone, _first_rows(guide, n))
        _check_plates("model", model, n)
        _check_match(guide, model)
        summed |= sample_sites(model, observed=False).keys() - guide.nodes.keys()
    with pyro.validation_enabled(not in_vain):
        return _settled(pair, few, summed, in_vain)


def drawn_once(joint: Joint) -> set[str]:
    """Latents that the guide draws by itself, as a Delta with a log_density says, but once for all particles."""
    found, in_model = set(), sample_sites(joint.model)
    for name, site in sample_sites(joint.guide).items():
        q, p = site["fn"], in_model[name]["fn"]
        value = site["value"].expand(*joint.shape, *q.event_shape)
        of_its_own = is_given(q) and not (is_point(q) or is_given(p) or is_discrete(p))
        if of_its_own and (value == value[:1]).all():
            found.add(name)
    return found


def _settled(pair: ModelAndGuide, few: list[Batch], summed: Collection[str], in_vain: bool) -> Found:
    """The fastest layout of particles in which a pair is right; by rows, if it asks for that."""
    by_rows = InLayout(pair.model, pair.guide, ROWS, own_rows=pair.own_rows)
    once = set[str]().union(*(drawn_once(_check_run(by_rows, part, summed, in_vain)) for part in few))
    most = max(few, key=num_rows)
    drawn = refuse_mixed_rows(by_rows, most)

    def unlike(other: InLayout) -> str:
        """Why the pair is not right in another layout than by rows; empty if it is."""
        try:
            for part in few:
                for name in sorted(drawn_once(_check_run(other, part, summed, in_vain)) - once):
                    return (
                        f"guide site '{name}': found one draw for all particles where they lead, and one for each by "
                        "rows; to run it faster, draw by `pyro.sample` from a distribution"
                    )
            return difference_from(drawn, other, most)
        except ContractError as error:
            return str(error)

    reason = ""
    if pair.particles == LEADING:
        reason = unlike(replace(by_rows, particles=LEADING))
        if not reason:
            return Found(LEADING)
    return Found(ROWS, not unlike(replace(by_rows, guide_leads=True)), reason)


def run_alone(role: str, function: Callable, batch: Batch) -> Trace:
    """The trace of a model or a guide by itself, without particles; if it fails, where and why."""
    with failures_explained(role, num_rows(batch)), poutine.trace() as tracer:
        call(function, batch)
    return tracer.trace


def _check_run(pair: ModelAndGuide, batch: Batch, summed: Collection[str], in_vain: bool) -> Joint:
    """Runs a pair with particles, in the layout that it names."""
    num_particles = min(num_rows(batch), MAX_ROWS) + 2
    num_particles += num_particles == num_rows(batch)

    def explained(role: str, summed: Collection[str] = ()) -> Any:
        return failures_explained(role, num_rows(batch), num_particles, summed, layout_of(pair, role))

    with explained("guide"):
        guide = trace_guide(pair, batch, num_particles)
    if summed:  # first with one value for each, to tell which of the two fails
        with explained("model"):
            of_model(partial(run, pair, "model", batch, num_particles), guide)
    with explained("model", summed):
        joint = with_model(guide, pair, batch, num_particles)
    check_shapes(joint)
    check_masks(joint)
    _check_values(joint)
    _check_finite(joint, in_vain)
    return joint


def of_model(trace: Callable[[], Trace], guide: Trace) -> Trace:
    """A model's trace at draws from its prior; where it cannot take those (of another precision), at the guide's."""
    try:
        return trace()
    except ContractError:
        with poutine.replay(trace=guide):
            return trace()


def _first_rows(trace: Trace, num: int) -> Trace:
    """A trace's draws of its first rows."""
    result = Trace()
    for name, site in sample_sites(trace).items():
        result.add_node(name, **(site | {"value": site["value"][:num]}))
    return result


def _check_plates(role: str, trace: Trace, num_rows: int) -> None:
    """Every site lies in one plate at dim -1 whose size is the batch's, and in no other."""
    for name, site in sample_sites(trace).items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        where = f"{role} site '{name}'"
        _refuse_random_choice(where, site, trace)
        if len(frames) > 1 or (frames and frames[0].dim != -1):
            raise ContractError(
                f"{where}: found in plates {{{', '.join(f'{f.name!r}: dim {f.dim}' for f in frames)}}}, expected only "
                "the data plate, at dim -1 (dim -2 is for particles); declare the other dimensions as part of the "
                "event with `.to_event(n)`"
            )
        if not frames:
            raise ContractError(f"{where}: {found_outside(name, site)}")
        _check_size(where, site["fn"], frames[0], num_rows)
        for dim, size in enumerate(site["fn"].batch_shape[:-1], 1 - len(site["fn"].batch_shape)):
            if size > 1:
                raise ContractError(
                    f"{where}: found size {size} at dim {dim - 1} of its batch shape, expected batch shape [batch] = "
                    f"[{num_rows}]; declare event dimensions with `.to_event(n)`"
                )


def _refuse_random_choice(where: str, site: Mapping[str, Any], trace: Trace) -> None:
    """A loop over some of a plate's indices, drawn at each run, has other sites each time."""
    for frame in site["cond_indep_stack"]:
        plate: Any = trace.nodes.get(frame.name, {}).get("fn")
        drawn = getattr(plate, "subsample_size", None)  # none where the indices are passed, as `subsample=`
        if not frame.vectorized and drawn is not None and drawn < plate.size:
            raise ContractError(
                f"{where}: found in a loop over {drawn} of the {plate.size} indices of plate '{frame.name}', "
                "drawn at random in each run, expected the same sites in each run; leave out its subsample_size, "
                "and loop over all"
            )


def _check_size(where: str, fn: Any, plate: Any, num_rows: int) -> None:
    """A plate's size is the batch's; one without a size takes that of the distributions in it."""
    if plate.size == -1 and tuple(fn.batch_shape[-1:]) != (num_rows,):
        raise ContractError(
            f"{where}: found batch shape {list(fn.batch_shape)} in plate '{plate.name}', which has no size, expected "
            f"[{num_rows}], a parameter for each row; write `pyro.plate('{plate.name}', len(x))`"
        )
    if plate.size not in (-1, num_rows):
        remedy = (
            "size the plate by the batch, as len(x) does; latents that all data points share can be given values, with "
            "Pair.of(..., condition=)"
        )
        if plate.full_size != plate.size:
            remedy = "leave out subsample_size, or pass the batch's own rows as `subsample=idx`"
        raise ContractError(
            f"{where}: found plate '{plate.name}' of size {plate.size}, expected {num_rows}, the number of rows in the "
            f"batch; {remedy}"
        )


def check_shapes(joint: Joint) -> None:
    """Batch shapes are `[K, B]`, and model and guide agree on each latent's event shape."""
    enumerated: set[int] = set()
    drawn = sample_sites(joint.guide)
    for role, sites in (("guide", drawn), ("model", sample_sites(joint.model))):
        enumerated |= {dim for site in sites.values() if (dim := enumeration_dim(site)) is not None}
        for name, site in sites.items():
            if role == "model" and name in drawn:
                _check_event_shapes(name, drawn[name], site)
            found = list(site["fn"].batch_shape)
            extra = [dim for dim in range(-len(found), -2) if found[dim] > 1 and dim not in enumerated]
            if tuple(found[-2:]) != joint.shape or extra:
                raise ContractError(
                    f"{role} site '{name}': found batch shape {found}, expected [particles, batch] = "
                    f"{list(joint.shape)}; put it in the data plate at dim -1 and declare event dimensions with "
                    "`.to_event(n)`"
                )


def check_masks(joint: Joint) -> None:
    """A latent is there for the same data points in model and guide."""
    for name in sample_sites(joint.guide):
        masks = [presence(trace.nodes[name]) for trace in (joint.guide, joint.model)]
        if all(mask is None for mask in masks):
            continue
        there, other = (torch.as_tensor(True) if mask is None else mask.cpu() for mask in masks)
        if (there != other).any():
            one, two = ("guide", "model") if (other & ~there).any() else ("model", "guide")
            raise ContractError(
                f"site '{name}': found masked in the {one} for data points where it is not in the {two}, expected the "
                "same mask in both, as a masked latent is not there; put the mask around the site in both, or around "
                "the observations alone"
            )


def _check_event_shapes(name: str, drawn: Mapping[str, Any], site: Mapping[str, Any]) -> None:
    in_guide, in_model = list(drawn["fn"].event_shape), list(site["fn"].event_shape)
    if in_guide != in_model:
        raise ContractError(
            f"site '{name}': found event shape {in_guide} in the guide and {in_model} in the model, expected the same; "
            "check `.to_event(n)` and the sizes in both"
        )


def _check_match(guide: Trace, model: Trace) -> None:
    """An observation, no stray guide sites, and a guide for all that cannot be summed out."""
    for name, site in sample_sites(guide, observed=True).items():
        if has_own_term(site):
            raise ContractError(
                f"guide site '{name}': found pyro.factor in the guide, expected draws of latents alone, as log q is "
                "their density, and a further term would count in each bound; give it to training, as "
                "SemiSupervisedELBO(weight=...) does for labels, or by an objective of your own that adds it to the "
                "surrogate"
            )
        raise ContractError(
            f"guide site '{name}': found observed in the guide, expected drawn; leave out its `obs=`, and observe data "
            "in the model"
        )
    drawn, sites = sample_sites(guide), sample_sites(model)
    if not sample_sites(model, observed=True):
        raise ContractError(
            f"model: found no observed site among {list(sites)}, expected at least one; pass the data as `obs=x`"
        )
    latents = [name for name, site in sites.items() if not site["is_observed"]]
    for name in drawn:
        if name not in sites or sites[name]["is_observed"]:
            if is_auxiliary(drawn[name]):
                raise ContractError(
                    f"guide site '{name}': found an auxiliary draw, expected draws of the model's latents alone, as "
                    "log q is their density; draw each of them by `pyro.sample` from a distribution of its own, such "
                    "as a TransformedDistribution of this one, or where it is of several at once let the model draw "
                    f"one vector, too: the model's are {latents}"
                )
            kind = "observed" if name in sites else "absent"
            raise ContractError(
                f"guide site '{name}': found {kind} in the model, expected a latent there; rename it, or leave it out; "
                f"the model's latents are {latents}"
            )
        _check_event_shapes(name, drawn[name], sites[name])
    for name, site in sites.items():
        if not site["is_observed"] and name not in drawn and not site["fn"].has_enumerate_support:
            remedy = f"add `pyro.sample('{name}', ...)` to the guide, which has {list(drawn)}"
            if is_given(site["fn"]):
                remedy = f"name what the model computes by `pyro.deterministic('{name}', ...)`"
            raise ContractError(
                f"model site '{name}': found no site of that name in the guide and no finite support to sum over, "
                f"expected one or the other; {remedy}"
            )


def _check_values(joint: Joint) -> None:
    """What is observed has the shape that its distribution declares, and all values are inside the support."""
    for role, trace in (("guide", joint.guide), ("model", joint.model)):
        for name, site in sample_sites(trace).items():
            fn, found = site["fn"], list(site["value"].shape)
            expected = [joint.shape[1], *fn.event_shape]
            if len(found) > len(expected) and found[0] == joint.shape[0]:
                found = found[1:]
            if found[:1] == [joint.shape[0] * joint.shape[1]]:  # by rows, of data in which these are elsewhere
                found[0] = joint.shape[1]
            if site["is_observed"] and found[-len(expected) :] != expected:
                remedy = (
                    "check `.to_event(n)`, and let networks keep leading dimensions (`.flatten(-n)` rather than "
                    "`.view(len(x), ...)`)"
                )
                if found[:1] == expected[:1] and math.prod(found) == math.prod(expected):
                    remedy = f"observe them in this shape, as `x.reshape(len(x), {', '.join(map(str, expected[1:]))})`"
                if found == expected[1:]:
                    remedy = "where all rows share a value, give it to each, as by `value.expand(len(x))`"
                raise ContractError(
                    f"{role} site '{name}': found observed data of shape {found}, expected [batch, *event] = "
                    f"{expected} as its distribution declares; {remedy}"
                )
            try:
                fn.log_prob(site["value"])
            except NotImplementedError as error:
                raise ContractError(
                    f"{role} site '{name}': found {family(fn)}, which knows no density of its values, expected one, "
                    "which torch has of transforms that are one to one; take FoldedDistribution in place of an "
                    "AbsTransform, a StickBreakingTransform in place of a SoftmaxTransform, or another distribution"
                ) from error
            except Exception as error:  # of any kind, as of an indexing in a flow
                said, outside = without_tensors(str(error)), "invalid values" in str(error)
                remedy = into_support(site["value"]) if site["is_observed"] else SAME_SUPPORT
                raise (SupportError if outside else ContractError)(
                    f"{role} site '{name}': found a value that {family(fn)} refuses ({said}), expected one inside its "
                    f"support; {remedy}, or choose another distribution"
                ) from (None if outside else error)  # which prints all values


def _check_finite(joint: Joint, in_vain: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro warns of what is refused here
        terms = [("guide", joint.log_q_terms()), ("model", joint.log_p_terms())]
    for role, by_site in terms:
        for name, term in by_site.items():
            if term.dtype.itemsize < torch.float32.itemsize:
                raise ContractError(
                    f"{role} site '{name}': found log probabilities of {term.dtype}, which holds three digits, "
                    "expected float32 or float64; convert the pair, by pair.float(), or the distribution's arguments; "
                    "to train networks in bfloat16, pass options=ppvae.StepOptions(autocast=torch.bfloat16)"
                )
            if in_vain and role == "model":
                term = term.masked_fill(term == -torch.inf, 0.0)
            if (row := first_bad_row(term)) is not None:
                value = next(v for v in term[..., row].flatten().tolist() if not math.isfinite(v))
                question = (
                    "does the guide draw what the model rules out? Give it the probability zero there, too"
                    if role == "model" and value == -math.inf and name in joint.guide.nodes
                    else "is the data inside the distribution's support, and its scale above zero?"
                )
                found = f"found log probability {value} at row {row}, expected a finite one"
                raise ContractError(f"{role} site '{name}': {found}; {question}")


def first_bad_row(term: Tensor) -> int | None:
    """The first data point with a non-finite entry in a `[..., B]` tensor, or None."""
    bad = (~torch.isfinite(term)).reshape(-1, term.shape[-1]).any(0)
    return int(bad.nonzero()[0]) if bad.any() else None
