"""Whether a pair's rows are independent, and whether particles in leading dimensions give the same numbers as rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, rows
from ppvae.model_and_guide import ModelAndGuide
from ppvae.particles import run
from ppvae.refusals import ContractError
from ppvae.sites import log_prob_terms
from ppvae.tracing import draw_latents, trace_model

NUM_PARTICLES = 3
SPREAD = 3e-3
"""Two log probabilities differ if by more than this part of their range over particles and rows, and rounding."""
ROUNDING = 100.0

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
    latents, num = _drawn(by_rows, batch), num_rows(batch)
    terms_of = _terms
    if by_rows.own_rows is not None:
        terms_of = _model_terms
        _refuse_mixed_particles(by_rows, batch, latents)
    terms = _terms(by_rows, batch, latents)
    again = _terms(by_rows, batch, latents)
    if differing := _first_difference(terms, again):
        (role, site), a, b = differing
        raise ContractError(
            f"{role} site '{site}': found log probability {a:.6g}, then {b:.6g}, of the same values, expected one "
            "number; draw all that is random by `pyro.sample`, and give functional dropout `training=self.training`"
        )
    for other in (torch.arange(num).flip(0), torch.arange(max(1, num - 1))):
        moved = terms_of(by_rows, rows(batch, other), {name: z[:, other] for name, z in latents.items()})
        expected = {key: terms[key][:, other] for key in moved}
        if differing := _first_difference(expected, moved):
            (role, site), a, b = differing
            raise ContractError(
                f"{role} site '{site}': found that a row's log probability depends on the other rows of its batch "
                f"({a:.6g} and {b:.6g} for the same row in two batches), expected each row to stand for itself; "
                "normalize over features rather than over the batch (`softmax(-1)`), and let batch norm keep running "
                "statistics"
            )
    return Drawn(latents, terms)


def difference_from(drawn: Drawn, other: ModelAndGuide, batch: Batch) -> str:
    """Where another layout than by rows gives the same values other log probabilities, in words; empty if nowhere."""
    differing = _first_difference(drawn.terms, _terms(other, batch, drawn.latents))
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
    if differing := _first_difference(terms, _guide_terms(pair, batch, latents)):
        (_, site), a, b = differing
        raise ContractError(
            f"guide site '{site}': found log probability {a:.6g} of one draw, {b:.6g} of the same among several, "
            "expected one number; as this guide has parameters for each row, it is run with particles leading: let "
            "networks work on the last dimensions (`dim=-1` rather than `dim=1`)"
        )


def _terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    return _model_terms(pair, batch, latents) | _guide_terms(pair, batch, latents)


def _model_terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    terms = trace_model(pair, batch, latents, NUM_PARTICLES).log_p_terms()
    return {("model", name): term.expand(NUM_PARTICLES, num_rows(batch)) for name, term in terms.items()}


def _guide_terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    with poutine.condition(data=latents):
        terms = _log_q(run(pair, "guide", batch, NUM_PARTICLES))
    return {("guide", name): term.expand(NUM_PARTICLES, num_rows(batch)) for name, term in terms.items()}


def _log_q(trace: Trace) -> dict[str, Tensor]:
    try:
        return log_prob_terms(trace)
    except ContractError:  # a flow that knows the density of its own draws alone
        return {}


def _first_difference(expected: Terms, found: Terms) -> tuple[tuple[str, str], float, float] | None:
    for key, a in expected.items():
        b = found[key]
        finite = a[a.isfinite()] if a.isfinite().any() else a.new_zeros(1)
        rounding = ROUNDING * torch.finfo(a.dtype).eps * (1 + finite.abs().max())
        differs = ~((a - b).abs() <= SPREAD * (finite.max() - finite.min()) + rounding) & (a != b)
        if differs.any():
            first: Any = differs.nonzero()[0].tolist()
            return key, a[tuple(first)].item(), b[tuple(first)].item()
    return None
