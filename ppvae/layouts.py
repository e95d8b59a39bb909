"""Whether a pair's rows are independent, and whether particles in leading dimensions give the same numbers as rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, rows
from ppvae.explanations import failures_explained
from ppvae.kinds import is_discrete
from ppvae.model_and_guide import ModelAndGuide
from ppvae.particles import layout_of, run
from ppvae.refusals import ContractError
from ppvae.sites import log_prob_terms, sample_sites
from ppvae.tracing import draw_latents, trace_model

NUM_PARTICLES = 3
SPREAD = 3e-3
"""Two log probabilities differ if by more than this part of their range over particles and rows, and rounding."""
ROUNDING = 100.0
MOST_PARTS = 4
"""The number of small batches in which rows are tried."""
LAST_BITS = (-4, -2, -1, 1, 2, 4)
"""By how many units of rounding latents are moved, to see how far their log probabilities move with them."""
ILL_CONDITIONED = 10.0
"""How many times as far another batch's rounding may move them."""

Terms = dict[tuple[str, str], Tensor]
"""Log probability by role and site, `[K, B]`."""


@dataclass(frozen=True)
class InLayout:
    """A pair's functions, run in a layout of the caller's choice."""

    model: Callable
    guide: Callable
    particles: str
    guide_leads: bool = False
    own_rows: Batch | None = None


class Drawn(NamedTuple):
    """Latents that a guide drew, and the log probabilities of all sites' values by rows."""

    latents: dict[str, Tensor]
    terms: Terms


def refuse_mixed_rows(by_rows: ModelAndGuide, batch: Batch) -> Drawn:
    """Refuses a pair where a row's log probability depends on the other rows, or on more than the sites' values.

    Returns:
        What it was found with.
    """
    latents, terms_of = _drawn(by_rows, batch), _terms
    if by_rows.own_rows is not None:
        terms_of = _model_terms
        _refuse_mixed_particles(by_rows, batch, latents)
    terms = _terms(by_rows, batch, latents)
    if differing := first_difference(terms, _terms(by_rows, batch, latents)):
        (role, site), a, b = differing
        if math.isnan(a):
            raise ContractError(
                f"{role} site '{site}': found log probability nan of a value that is given, expected that of any "
                "value; take a distribution that has it, such as OneHotCategorical in place of a straight-through draw"
            )
        raise ContractError(
            f"{role} site '{site}': found log probability {a:.6g}, then {b:.6g}, of the same values, expected one "
            "number; draw all that is random by `pyro.sample`, give functional dropout `training=self.training`, and "
            "let nothing change from call to call, as a counter does"
        )
    _refuse_same_draws(by_rows, batch)
    num = num_rows(batch)
    for particles, part in _parts(num):
        moved = {name: z[particles][:, part] for name, z in latents.items()}
        found = terms_of(by_rows, rows(batch, part), moved)
        if differing := _beyond_rounding(by_rows, batch, latents, terms, found, particles, part):
            (role, site), a, b = differing
            raise ContractError(
                f"{role} site '{site}': found that a row's log probability depends on "
                f"{'the other rows of its batch' if num > 1 else 'other draws for it'} "
                f"({a:.6g} and {b:.6g} for the same row in two batches), expected each row to stand for itself; "
                "normalize over features rather than over the batch (`softmax(-1)`), take no mean or maximum over its "
                "rows (`x.max()`), and let batch norm keep running statistics"
            )
    return Drawn(latents, terms)


def _refuse_same_draws(pair: ModelAndGuide, batch: Batch) -> None:
    """Refuses a pair that draws the same each time, as errors of estimates count on draws that are independent."""
    once = _drawn(pair, batch)
    _model_terms(pair, batch, once)
    for name, site in sample_sites(run(pair, "guide", batch, NUM_PARTICLES)).items():
        again = site["value"].expand_as(once[name])
        if not is_discrete(site["fn"]) and torch.equal(once[name], again) and (again[:1] != again).any():
            raise ContractError(
                f"guide site '{name}': found the same draws in two runs, expected new ones each time; leave out what "
                "sets the random number generator in model or guide (`pyro.set_rng_seed`, `torch.manual_seed`, "
                "`poutine.seed`), and pass `seed=` to what fits or measures"
            )


def _parts(num: int) -> list[tuple[Tensor, Tensor]]:
    """Particles and rows that are to be as they are among all: in another order, twice, and with few others.

    One row or two at a time fill a batch: the largest row, the smallest, any one, is missing in most of them. No batch
    is smaller than the whole, as products of small matrices round otherwise, which narrow distributions magnify. Where
    there is one row alone, its particles are rows, which are tried one by one.
    """
    every = torch.arange(NUM_PARTICLES)
    if num == 1:
        return [(torch.full_like(every, k), torch.arange(1)) for k in range(NUM_PARTICLES)]
    num_parts = min(MOST_PARTS, max(2, (num + 1) // 2))
    few = [torch.arange(first, num, num_parts)[:2].repeat(num)[:num] for first in range(num_parts)]
    return [(every, part) for part in (torch.arange(num).flip(0), torch.arange(num).repeat(2), *few)]


def difference_from(drawn: Drawn, other: ModelAndGuide, batch: Batch) -> str:
    """Where another layout than by rows gives the same values other log probabilities, in words; empty if nowhere."""
    found = _terms(other, batch, drawn.latents)
    differing = _beyond_rounding(other, batch, drawn.latents, drawn.terms, found)
    if not differing:
        return ""
    (role, site), a, b = differing
    return (
        f"{role} site '{site}': found log probability {a:.6g} by rows, {b:.6g} with particles leading; to run it "
        "faster, let networks work on the last dimensions (`dim=-1` rather than `dim=1`)"
    )


def _drawn(pair: ModelAndGuide, batch: Batch) -> dict[str, Tensor]:
    return draw_latents(pair, batch, NUM_PARTICLES)


def _refuse_mixed_particles(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> None:
    """Refuses a guide that takes only its own rows, if it does not give all particles what plain Pyro gives each."""
    one_by_one = []
    for k in range(NUM_PARTICLES):
        with poutine.trace() as tracer, poutine.condition(data={name: z[k] for name, z in latents.items()}):
            call(pair.guide, batch)
        one_by_one.append(_log_q(tracer.trace))
    terms = {("guide", name): torch.stack([each[name] for each in one_by_one]) for name in one_by_one[0]}
    if differing := first_difference(terms, _guide_terms(pair, batch, latents)):
        (_, site), a, b = differing
        raise ContractError(
            f"guide site '{site}': found log probability {a:.6g} of one draw, {b:.6g} of the same among several, "
            "expected one number; as this guide has parameters for each row, it is run with particles leading: let "
            "networks work on the last dimensions (`dim=-1` rather than `dim=1`)"
        )


def _terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    return _model_terms(pair, batch, latents) | _guide_terms(pair, batch, latents)


def _model_terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    shape = _shape(batch, latents)
    with _explained(pair, "model", shape):
        joint = trace_model(pair, batch, latents, shape[0])
    terms = joint.log_p_terms()
    return {("model", name): term.expand(shape) for name, term in terms.items()}


def _guide_terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    shape = _shape(batch, latents)
    with _explained(pair, "guide", shape), poutine.condition(data=latents):
        trace = run(pair, "guide", batch, shape[0])
    terms = _log_q(trace)
    return {("guide", name): term.expand(shape) for name, term in terms.items()}


def _explained(pair: ModelAndGuide, role: str, shape: tuple[int, int]) -> Any:
    num_particles, num = shape
    return failures_explained(role, num, num_particles, layout=layout_of(pair, role))


def _shape(batch: Batch, latents: dict[str, Tensor]) -> tuple[int, int]:
    """`(K, B)`."""
    return len(next(iter(latents.values()))) if latents else NUM_PARTICLES, num_rows(batch)


def _log_q(trace: Trace) -> dict[str, Tensor]:
    try:
        return log_prob_terms(trace)
    except ContractError:  # a flow that knows the density of its own draws alone
        return {}


def _beyond_rounding(
    pair: ModelAndGuide,
    batch: Batch,
    latents: dict[str, Tensor],
    expected: Terms,
    found: Terms,
    particles: Tensor | slice = slice(None),
    part: Tensor | slice = slice(None),
) -> tuple[tuple[str, str], float, float] | None:
    """The first difference that is not due to the last bits of latents, as where a transform is steep."""
    if not first_difference(expected, found, particles, part):
        return None
    return first_difference(expected, found, particles, part, _noise(pair, batch, latents))


def _noise(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    """How far log probabilities may move by rounding alone."""
    with pyro.validation_enabled(False):  # what is moved may leave the support
        terms = _terms(pair, batch, latents)
        noise = {key: torch.zeros_like(term) for key, term in terms.items()}
        for bits in LAST_BITS:
            near = {name: z * (1 + bits * _epsilon(z)) for name, z in latents.items()}
            for key, moved in _terms(pair, batch, near).items():
                distance = (moved - terms[key]).abs()
                noise[key] = noise[key].maximum(distance.where(distance.isfinite(), 0.0))
    return {key: ILL_CONDITIONED * each for key, each in noise.items()}


def _epsilon(z: Tensor) -> float:
    return torch.finfo(z.dtype).eps if z.is_floating_point() else 0


def first_difference(
    expected: Terms,
    found: Terms,
    particles: Tensor | slice = slice(None),
    part: Tensor | slice = slice(None),
    noise: Terms | None = None,
) -> tuple[tuple[str, str], float, float] | None:
    """The first site found with other log probabilities than those particles and rows of the expected, and both.

    What differs by no more than `noise`, of the shape of the expected, does not count.
    """
    expected, found = _of_same_sites(expected, found)
    for key, whole in expected.items():
        b = found[key]
        a = whole[particles][:, part]
        finite = whole[whole.isfinite()] if whole.isfinite().any() else whole.new_zeros(1)
        rounding = ROUNDING * torch.finfo(a.dtype).eps * (1 + finite.abs().max())
        within = SPREAD * (finite.max() - finite.min()) + rounding
        if noise is not None and key in noise:
            within = within + noise[key][particles][:, part]
        differs = ~((a - b).abs() <= within) & (a != b)
        if differs.any():
            first: Any = differs.nonzero()[0].tolist()
            return key, a[tuple(first)].item(), b[tuple(first)].item()
    return None


def _of_same_sites(*both: Terms) -> tuple[Terms, ...]:
    """Two runs' terms by the same keys: what only one of them has is summed up in each.

    A model that goes up to the longest row of a batch has fewer sites in a batch of short rows, and no less log
    probability, as the others are masked. A guide may have no terms at all, and then is not compared.
    """
    result: tuple[Terms, ...] = ({}, {})
    for role in ("model", "guide"):
        of_role = [{name: term for (r, name), term in terms.items() if r == role} for terms in both]
        if not all(of_role):
            continue
        common = of_role[0].keys() & of_role[1].keys()
        alone = sorted((of_role[0].keys() | of_role[1].keys()) - common)
        for own, terms in zip(of_role, result, strict=True):
            terms |= {(role, name): term for name, term in own.items() if name in common}
            if alone:
                zero = torch.zeros_like(next(iter(own.values())))
                terms[role, alone[0]] = sum((own[name] for name in alone if name in own), zero)
    return result
