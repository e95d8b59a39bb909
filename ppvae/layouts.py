"""Whether a pair's rows are independent, and whether particles in leading dimensions give the same numbers as rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
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


def refuse_mixed_rows(by_rows: ModelAndGuide, batch: Batch) -> None:
    """Refuses a pair where a row's log probability depends on the other rows, or on more than the sites' values."""
    latents, num = _drawn(by_rows, batch), num_rows(batch)
    terms = _terms(by_rows, batch, latents)
    again = _terms(by_rows, batch, latents)
    if differing := _first_difference(terms, again):
        (role, site), a, b = differing
        raise ContractError(
            f"{role} site '{site}': found log probability {a:.6g}, then {b:.6g}, of the same values, expected one "
            "number; draw all that is random by `pyro.sample`, and give functional dropout `training=self.training`"
        )
    for other in (torch.arange(num).flip(0), torch.arange(max(1, num - 1))):
        moved = _terms(by_rows, rows(batch, other), {name: z[:, other] for name, z in latents.items()})
        expected = {key: term[:, other] for key, term in terms.items()}
        if differing := _first_difference(expected, moved):
            (role, site), a, b = differing
            raise ContractError(
                f"{role} site '{site}': found that a row's log probability depends on the other rows of its batch "
                f"({a:.6g} and {b:.6g} for the same row in two batches), expected each row to stand for itself; "
                "normalize over features rather than over the batch (`softmax(-1)`), and let batch norm keep running "
                "statistics"
            )


def difference_between(by_rows: ModelAndGuide, leading: ModelAndGuide, batch: Batch) -> str:
    """Where the two layouts give the same values different log probabilities, in words; empty where they agree."""
    latents = _drawn(by_rows, batch)
    differing = _first_difference(_terms(by_rows, batch, latents), _terms(leading, batch, latents))
    if not differing:
        return ""
    (role, site), a, b = differing
    return (
        f"{role} site '{site}': found log probability {a:.6g} by rows, {b:.6g} with particles leading; to run it "
        "faster, let networks work on the last dimensions (`dim=-1` rather than `dim=1`)"
    )


def _drawn(pair: ModelAndGuide, batch: Batch) -> dict[str, Tensor]:
    return draw_latents(pair, batch, NUM_PARTICLES)


def _terms(pair: ModelAndGuide, batch: Batch, latents: dict[str, Tensor]) -> Terms:
    model = trace_model(pair, batch, latents, NUM_PARTICLES).log_p_terms()
    with poutine.condition(data=latents):
        trace = run(pair, "guide", batch, NUM_PARTICLES)
    try:
        guide = log_prob_terms(trace)
    except ContractError:  # a flow that knows the density of its own draws alone
        guide = {}
    shape = (NUM_PARTICLES, num_rows(batch))
    terms = {("model", name): term for name, term in model.items()} | {("guide", name): t for name, t in guide.items()}
    return {key: term.expand(shape) for key, term in terms.items()}


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
