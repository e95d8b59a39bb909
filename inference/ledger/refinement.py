"""The best guide of the same family for each data point: what amortization costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.enumerable import guide_runs_enumerated
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence import streamed
from ppvae.inference.ledger.ascent import Ascent, ascend, compile_after, like
from ppvae.inference.ledger.local_guide import LocalGuide
from ppvae.inference.objectives.enumerated import EnumeratedELBO
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.chunks import over_data
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.refusals import ContractError
from ppvae.sites import sample_sites

SELECTION_SAMPLES = 100
"""Draws on which the starts are compared; the reported ELBO comes from others."""

STARTS_OF_CODES = 4
"""Times as many further starts where a site is discrete: there an ascent ends at the values nearest to its start."""


@dataclass(frozen=True)
class Refined:
    """A pair with refined guides for the data points of a batch.

    Attributes:
        pair: the local guides; measure them by `ppvae.elbo(refined.pair, refined.batch)`.
        batch: the data and the offsets.
        improved: where an offset was found that is better than none, `[N]`.
        converged: the share of the chunks of data whose ascent settled.
        fixed: sites that could not be refined, and why.
        ascended: whether they were refined by an ascent at all.
    """

    pair: LocalGuide
    batch: Batch
    improved: Tensor
    converged: float
    fixed: Mapping[str, str] = field(default_factory=dict)
    ascended: bool = False


def refine(pair: Pair, batch: Batch, settings: Ascent, restarts: int, progress: bool) -> Refined:
    """Ascends the ELBO of each data point from its amortized guide, and from `restarts` points around it.

    Where a site is discrete, it is four times as many, about the uniform.

    An ascent that has not settled goes on once, for as many steps as the richer families have, which start from where
    it ends.

    The best on separate samples is kept, or the amortized guide where nothing is better; so, measured on fresh samples,
    the ELBO never falls below the amortized one, up to noise.
    """
    two = to_pair(rows_or_all(pair, batch, slice(2)), pair)
    local = LocalGuide(pair, two)
    if not local.shapes:
        nowhere = torch.zeros(num_rows(batch), dtype=torch.bool)
        return Refined(local, local.with_offsets(batch, {}), nowhere, 1.0, local.fixed)
    num_starts = 1 + restarts * (STARTS_OF_CODES if _has_codes(pair, two) else 1)
    gradient = Repeated(local, partial(_gradient, _objective(local, two, settings.num_particles)), compile_after(pair))
    values = Repeated(local, streamed.terms_of_the_elbo(pair, two))

    def one_step(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        return {"value": gradient(points, local.zeros(points))[0]}

    def measure(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        best = local.zeros(points)
        best_value = values(local.with_offsets(points, best), SELECTION_SAMPLES).mean(0)
        improved, settled = torch.zeros_like(best_value), False
        for number in range(num_starts):
            start = local.about(points) if number else local.zeros(points)
            offsets, converged = ascend(partial(gradient, points), start, settings)
            if not converged:
                offsets, converged = ascend(partial(gradient, points), offsets, settings)
            value = values(local.with_offsets(points, offsets), SELECTION_SAMPLES).mean(0)
            better = value > best_value
            best_value = torch.where(better, value, best_value)
            best = {name: torch.where(like(better, t), offsets[name], t) for name, t in best.items()}
            improved, settled = improved.masked_fill(better, 1.0), settled or converged
        return best | {"improved": improved, "converged": torch.full_like(best_value, float(settled))}

    index = torch.arange(num_rows(batch))
    found = over_data(pair, index, 1, measure, "refining" if progress else None, probe=one_step)
    improved, converged = found.pop("improved").bool(), found.pop("converged").mean().item()
    return Refined(local, local.with_offsets(batch, found), improved, converged, local.fixed, ascended=True)


def unrefined(pair: Pair, batch: Batch) -> Refined:
    """The guide as it is, for a pair whose guide is not to be refined."""
    local = LocalGuide(pair, to_pair(rows_or_all(pair, batch, slice(2)), pair))
    offsets = {name: t.cpu() for name, t in local.zeros(batch).items()}
    return Refined(local, local.with_offsets(batch, offsets), torch.zeros(num_rows(batch), dtype=torch.bool), 1.0)


def _objective(local: LocalGuide, points: Batch, num_particles: int) -> Objective:
    """The ELBO with the least noise near its best, as a few points tell."""
    pair = local.pair
    if _has_codes(pair, points) and guide_runs_enumerated(pair, points):
        return EnumeratedELBO(num_particles)
    objective = ELBO(num_particles, gradient="stl")
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            objective(pair, points)
    except ContractError:  # with gradients stopped, the density of a planar flow's draws is no longer known
        return ELBO(num_particles).prepared(local, local.with_offsets(points, local.zeros(points)))
    return objective


def _has_codes(pair: Pair, points: Batch) -> bool:
    sites = sample_sites(run(pair, "guide", points, 1), observed=False).values()
    return any(site["fn"].has_enumerate_support for site in sites)


def _gradient(
    objective: Objective, local: LocalGuide, points: Batch, offsets: dict[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    with torch.enable_grad():
        offsets = {name: t.detach().requires_grad_() for name, t in offsets.items()}
        value, surrogate = objective(local, local.with_offsets(points, offsets))
        gradients = torch.autograd.grad(
            surrogate * len(value), list(offsets.values()), allow_unused=True, materialize_grads=True
        )
    return value.detach(), list(gradients)
