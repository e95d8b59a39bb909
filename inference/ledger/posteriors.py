"""Draws from the posterior of each data point: the guide's, or by ways that come closer to it.

Each way is a function of a pair in eval mode (inside `measuring`), N data points, the number of draws, settings of AIS
and whether to show bars, and returns `Draws`; `DRAWN_BY` lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.inference.evidence.annealed_importance import AIS, Sampler, run_chains
from ppvae.inference.evidence.coverage import judged
from ppvae.inference.evidence.pareto import smoothed
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.inference.runtime.measuring import finite
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.refusals import ContractError
from ppvae.sites import log_prob_terms, sample_sites
from ppvae.weights import draw_weights, sum_terms

CANDIDATES = 20
"""Draws from the guide for each one that resampling keeps."""

RESTARTS = 1
"""Further starts of a refined guide, as in `ppvae.gap`."""


@dataclass(frozen=True)
class Draws:
    """S draws for each of N data points, on the CPU.

    Attributes:
        latents: of the guide's sites by name, `[S, N, *event]`.
        log_q: log probability of each draw under the pair's guide, however it was drawn, `[S, N]`, in nats.
        quality: diagnostics of the draws by name, `[N]`.
    """

    latents: Mapping[str, Tensor]
    log_q: Tensor
    quality: Mapping[str, Tensor] = field(default_factory=dict)


def guided(pair: Pair, batch: Batch, num_samples: int, annealing: AIS | None, progress: bool) -> Draws:
    """Draws from the guide, `z ~ q(z | x)`: independent, and as far from the posterior as the guide is."""
    return _by_chunks(pair, batch, num_samples, lambda points, num: _run_guide(pair, points, num), progress)


def resampled(pair: Pair, batch: Batch, num_samples: int, annealing: AIS | None, progress: bool) -> Draws:
    """Draws from the guide, chosen by their Pareto-smoothed importance weights.

    Of `20 S` candidates S are taken with replacement, each `S w~` times on average (systematic resampling, in a random
    order). As the number of candidates grows the draws become the posterior's, with an error of the order of
    `chi^2(posterior || q) / (20 S)`. Wrong where k-hat is above 0.7; where `ess` is below S, many draws are copies of
    one another; and a mode that the guide never visits leaves no trace.

    Source: Rubin 1988, Bayesian Statistics 3, for importance resampling; Carpenter et al. 1999, IEE Proceedings 146(1),
    for systematic resampling; Vehtari et al. 2024 (arXiv:1507.02646) for the smoothing.

    Returns:
        Draws with `khat`, of the candidates' weights, and `ess`, `1 / sum w~^2` of the smoothed weights, at most 20 S.
    """

    def measure(index: Any, num_candidates: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        pieces = [_candidates(pair, points, size) for size in sizes(num_candidates, at_once)]
        candidates = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        log_w = candidates.pop("log_w").double()
        log_share, khat = smoothed(log_w)
        chosen = systematic(log_share.exp(), num_samples)
        return {
            **_taken(candidates, chosen),
            "estimate": log_w.logsumexp(0),
            "khat": khat,
            "ess": 1 / log_share.exp().square().sum(0),
        }

    def one_candidate(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        return _candidates(pair, to_pair(rows(batch, index.cpu()), pair), 1)

    index = torch.arange(num_rows(batch))
    title = "resampling" if progress else None
    found = finite(over_data(pair, index, CANDIDATES * num_samples, measure, title, probe=one_candidate))
    return _draws(found | {"khat": judged(found["khat"], pair, batch)})


def refined(pair: Pair, batch: Batch, num_samples: int, annealing: AIS | None, progress: bool) -> Draws:
    """Draws from each data point's own best guide of the same family: without the cost of amortization.

    They still lack what the family lacks. `log_q` is the amortized guide's, so `log p - log q` is not their weight.

    Source: Cremer et al. 2018 (arXiv:1801.03558); see `ppvae.inference.ledger.refinement`.

    Raises:
        ppvae.ContractError: no site of the guide has anything to refine (each is named).
    """
    best = refine(pair, batch, Ascent(), RESTARTS, progress)
    if not best.pair.shapes:
        reason = "; ".join(f"site '{site}': {why}" for site, why in best.fixed.items()) or "it has no latent sites"
        raise ContractError(
            f"posterior='refined': found nothing to refine in the guide of {type(pair).__name__} ({reason}), expected "
            "a site whose distribution has arguments on the reals; take posterior='resampled'"
        )
    local = _by_chunks(
        best.pair, best.batch, num_samples, lambda points, num: _run_guide(best.pair, points, num), progress
    )
    return replace(local, log_q=log_q_of(pair, batch, local.latents, num_samples, progress))


def annealed(pair: Pair, batch: Batch, num_samples: int, annealing: AIS | None, progress: bool) -> Draws:
    """The last states of annealed importance sampling, one for each draw, chosen by their weights.

    Chains are resampled for each data point (systematically, in a random order): evenly weighted ones all stay. Wrong
    where `ess` is a small part of S: then the draws are many copies of a few chains, and more temperatures are needed.
    A mode that neither guide nor prior leads to is not visited.

    Source: Neal 2001 (arXiv:physics/9803008).

    Args:
        annealing: the settings, `AIS()` if None; the number of draws replaces their number of chains.

    Returns:
        Draws with `ess`, the effective sample size of the AIS weights, at most S.

    Raises:
        ppvae.ContractError: a latent that is discrete (its site is named), or none at all.
    """

    def passing(sampler: Sampler, index: Tensor) -> dict[str, Tensor]:
        state, log_weight = sampler.forward()
        share = log_weight.softmax(0)
        taken = _taken(_named(sampler.latents(state)), systematic(share, num_samples))
        return taken | {"estimate": log_weight.logsumexp(0), "ess": 1 / share.square().sum(0)}

    settings = replace(annealing or AIS(), num_chains=num_samples)
    found = finite(run_chains(pair, batch, settings, passing, progress, result="draws"))
    latents = _latents(found)
    return Draws(latents, log_q_of(pair, batch, latents, num_samples, progress), {"ess": found["ess"]})


@dataclass(frozen=True)
class Way:
    """A way to draw from the posterior.

    Attributes:
        draw: the function.
        about: which draws of z it gives, for the docs.
        quality: the names of its diagnostics, per data point.
        needs_density: whether the pair must have a density that can be measured.
        anneals: whether it takes settings of AIS.
    """

    draw: Callable[[Pair, Batch, int, AIS | None, bool], Draws]
    about: str
    quality: tuple[str, ...] = ()
    needs_density: bool = True
    anneals: bool = False


DRAWN_BY: dict[str, Way] = {
    "guide": Way(guided, "from q(z given x)", needs_density=False),
    "resampled": Way(
        resampled,
        f"of {CANDIDATES} times as many from q, chosen by Pareto-smoothed weights",
        quality=("khat", "ess"),
    ),
    "refined": Way(refined, "from each data point's best guide of the same family"),
    "annealed": Way(
        annealed,
        "last states of annealed chains, one for each draw, chosen by weight",
        quality=("ess",),
        anneals=True,
    ),
}
"""The ways to draw, by the name that `ppvae.to_arviz(posterior=...)` gives them."""


def way_named(posterior: str, annealing: AIS | None) -> Way:
    """The way of that name.

    Raises:
        ValueError: there is none, or it takes no settings of AIS and some were given.
    """
    if posterior not in DRAWN_BY:
        raise ValueError(f"posterior: found {posterior!r}, expected one of {tuple(DRAWN_BY)}")
    way = DRAWN_BY[posterior]
    if annealing is not None and not way.anneals:
        takers = " or ".join(f"posterior={name!r}" for name, each in DRAWN_BY.items() if each.anneals)
        raise ValueError(f"annealing: found {annealing} for posterior={posterior!r}, expected {takers}")
    return way


def log_q_of(pair: Pair, batch: Batch, latents: Mapping[str, Tensor], num_samples: int, progress: bool) -> Tensor:
    """`log q(z | x)` of given latents by site, `[S, N, *event]`: `[S, N]`, in nats."""

    def measure(index: Any, num_particles: int, at_once: int) -> dict[str, Tensor]:
        points = to_pair(rows(batch, index.cpu()), pair)
        pieces, start = [], 0
        for size in sizes(num_particles, at_once):
            piece = {name: z[start : start + size, index.cpu()] for name, z in latents.items()}
            given = cast(dict[str, Tensor], to_pair(piece, pair))
            start += size
            with poutine.condition(data=given):
                pieces.append(_run_guide(pair, points, size)["log_q"])
        return {"log_q": torch.cat(pieces).T}

    title = "weighing" if progress else None
    return over_data(pair, torch.arange(num_rows(batch)), num_samples, measure, title)["log_q"].T


def systematic(probability: Tensor, num: int) -> Tensor:
    """Indices `[num, N]` in which k comes `num p_k` times on average and never off by one or more, shuffled.

    Source: Carpenter et al. 1999, IEE Proceedings 146(1).

    Args:
        probability: `[K, N]`, with sum 1 over K.
        num: how many.

    Example:
        >>> systematic(torch.tensor([[0.5], [0.0], [0.5]]), 4).sort(0).values.T
        tensor([[0, 0, 2, 2]])
    """
    num_points, device = probability.shape[1], probability.device
    cumulative = probability.double().cumsum(0).T.contiguous()
    offset = torch.rand(num_points, 1, dtype=torch.float64, device=device)
    places = (torch.arange(num, dtype=torch.float64, device=device) + offset) / num * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, places).clamp(max=len(probability) - 1)
    return index.gather(1, torch.rand(num_points, num, device=device).argsort(1)).T


def _by_chunks(
    pair: Pair, batch: Batch, num_samples: int, draw: Callable[[Batch, int], dict[str, Tensor]], progress: bool
) -> Draws:
    """What `draw` draws for all data points, chunk by chunk."""

    def measure(points: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
        pieces = [draw(points, size) for size in sizes(num_particles, at_once)]
        return {name: torch.cat([piece[name] for piece in pieces]).transpose(0, 1) for name in pieces[0]}

    return _draws(over_data(pair, batch, num_samples, measure, "drawing" if progress else None))


def _candidates(pair: Pair, batch: Batch, num: int) -> dict[str, Tensor]:
    weights = draw_weights(pair, batch, num)
    return _named(weights.latents) | {"log_q": weights.log_q, "log_w": weights.log_w}


def _run_guide(pair: Pair, batch: Batch, num: int) -> dict[str, Tensor]:
    """Latents and log q, `[K, B, ...]`, of one run of a guide."""
    trace, shape = run(pair, "guide", batch, num), (num, num_rows(batch))
    latents = {
        name: site["value"].expand(*shape, *site["fn"].event_shape) for name, site in sample_sites(trace).items()
    }
    terms = log_prob_terms(trace)
    return _named(latents) | {"log_q": sum_terms(terms).expand(shape) if terms else torch.zeros(shape)}


LATENT = "latent "
"""The prefix of the names of latents among other results."""


def _named(latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {LATENT + name: z for name, z in latents.items()}


def _taken(values: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """The values `[K, B, ...]` at the chosen indices `[S, B]`: `[B, S, ...]`."""
    columns = torch.arange(chosen.shape[1], device=chosen.device)
    return {name: t[chosen, columns].transpose(0, 1) for name, t in values.items()}


def _draws(found: dict[str, Tensor]) -> Draws:
    """From results by data point, `[N, S, ...]`."""
    return Draws(_latents(found), found["log_q"].T, {name: found[name] for name in ("khat", "ess") if name in found})


def _latents(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(LATENT): t.transpose(0, 1) for name, t in found.items() if name.startswith(LATENT)}
