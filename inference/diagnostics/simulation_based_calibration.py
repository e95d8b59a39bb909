"""Simulation-based calibration: on data drawn from the model, is a guide's posterior the model's?"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch, num_rows
from ppvae.devices import gpus
from ppvae.inference.diagnostics.simulated_latents import (
    Simulations,
    refuse_not_numbers,
    refuse_undefined,
    refuse_without_latents,
)
from ppvae.inference.runtime.chunks import evaluating, over_data, sizes
from ppvae.inference.runtime.sharing import measurement
from ppvae.pair import Pair
from ppvae.simulation import simulate
from ppvae.sites import where_there
from ppvae.supports import refuse_unlike
from ppvae.tracing import draw_latents, trace_model, trace_pair
from ppvae.weights import sum_terms

LOG_JOINT = "log_joint"
MOST_BINS, LEAST_PER_BIN = 20, 5
FALSE_WORDS = 0.01  # probability that an exact guide is given any direction
ROUNDING = 16  # machine epsilons, relative: log joints closer than that are ties


@checked
@measurement
def calibration(
    pair: Pair,
    num_simulations: Simulations = 1000,
    num_samples: Count = 99,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> xr.Dataset:
    """Simulation-based calibration: the rank of the true latents among draws from the guide.

    For `(x, z) ~ p(x, z)` and `z_1 ... z_L ~ q(z | x)`, the rank `#{l: f(z_l, x) < f(z, x)}` is uniform on 0 ... L if
    q is the exact posterior, for any f; ties are broken at random, and where a latent is masked, its values tie. Here f
    is each scalar of the guide's sites in turn, and `log p(x, z)`, which detects what no scalar alone can: a guide that
    is the prior has uniform ranks in every scalar.

    `direction` says, from the slope or the curvature of the ranks, whichever is stronger, that the guide's draws of f
    are "too low" (the truth ranks high), "too high", "too narrow" (U-shaped) or "too wide" (humped). For `log_joint`,
    "too high" is the mark of a guide too narrow, "too low" of one too wide or misplaced.

    When it is wrong: uniform ranks show no error in these f, on average over the model's own data; they prove nothing
    about real data that the model would not draw, nor about any single x. A p-value says that a guide is not exact, and
    with enough simulations none is: `ppvae.gap` says what that costs, in nats. Covariates (arguments that the model
    does not observe) are those of `pair.example`.

    Source: Talts et al. 2018 (arXiv:1804.06788); Modrák et al. 2023 (arXiv:2211.02383) for log p(x, z).

    Args:
        pair: the model and guide, taken in eval mode, where its parameters are.
        num_simulations: pairs (x, z) drawn from the model; at least 10.
        num_samples: L, draws from the guide for each. Memory grows with neither.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Returns:
        A dataset over `quantity` ("z[0]", ..., "log_joint") and `simulation`: `rank`; and per quantity `p_value`, of
        uniform ranks (chi-squared over about 20 bins), and `direction`, empty where none is significant: with an exact
        guide, for all quantities together, 99 times in 100.

    Raises:
        EvidenceUndefined: the pair declares that it has no density.
        ContractError: no `pair.example`, a guide without latents or without a density (Delta), one with parameters for
            its own rows, or a model that observes something that is not one of its arguments.
        ValueError: a count too small, or a log p(x, z) that is not a number.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> ds = calibration(LinearVAE(num_features=3, num_latents=2, guide="exact"), num_simulations=200, seed=0)
        >>> ds.quantity.values.tolist(), bool((ds.p_value > 0.001).all())
        (['z[0]', 'z[1]', 'log_joint'], True)
    """
    refuse_undefined(pair)
    with evaluating(pair, seed):
        examples = pair.examples(num_simulations)
        found = over_data(pair, examples, num_samples, partial(_ranks, pair), "calibration" if progress else None)
    rank = np.stack([ranks.numpy() for ranks in found.values()])
    counts, expected = rank_counts(rank, num_samples)
    return xr.Dataset(
        {
            "rank": (("quantity", "simulation"), rank),
            "p_value": ("quantity", stats.chisquare(counts, expected, axis=1).pvalue),
            "direction": ("quantity", [_direction(ranks, num_samples, len(rank)) for ranks in rank]),
        },
        coords={"quantity": list(found), "simulation": np.arange(num_simulations)},
        attrs={"num_samples": num_samples},
    )


def rank_counts(rank: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks in bins.

    Args:
        rank: `[Q, N]`, of values 0 ... num_samples.
        num_samples: L.

    Returns:
        How many lie in each bin, `[Q, bins]`, and how many are expected if all are equally probable, `[bins]`.

    Example:
        >>> counts, expected = rank_counts(np.array([[0, 0, 1, 3] * 5]), num_samples=3)
        >>> counts.tolist(), expected.tolist()
        ([[10, 5, 0, 5]], [5.0, 5.0, 5.0, 5.0])
    """
    num_bins = min(MOST_BINS, num_samples + 1, rank.shape[1] // LEAST_PER_BIN)
    bin_of_rank = np.arange(num_samples + 1) * num_bins // (num_samples + 1)
    counts = np.stack([np.bincount(bin_of_rank[ranks], minlength=num_bins) for ranks in rank])
    return counts, np.bincount(bin_of_rank) * rank.shape[1] / (num_samples + 1)


def scalars(name: str, event_shape: torch.Size) -> list[str]:
    """Names of a site's scalars, row by row: "z[0]", "z[1]", ...; the site's own name if it is a scalar.

    Example:
        >>> scalars("z", torch.Size([2, 2]))
        ['z[0,0]', 'z[0,1]', 'z[1,0]', 'z[1,1]']
    """
    if not event_shape:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*event_shape)]


def _ranks(pair: Pair, batch: Batch, num_samples: int, at_once: int) -> dict[str, Tensor]:
    """A rank for each quantity and row, `[B]`, on new data drawn in place of the batch's."""
    x, drawn = simulate(pair, batch)
    with torch.random.fork_rng(gpus(pair)):
        refuse_unlike(trace_pair(pair, x, 1))
    below: dict[str, Tensor] = {}
    ties: dict[str, Tensor] = {}
    for size in sizes(num_samples, at_once):
        guided = draw_latents(pair, x, size)
        refuse_without_latents(pair, len(guided))
        latents = {name: torch.cat([drawn[name].expand_as(z[:1]), z]) for name, z in guided.items()}
        joint = trace_model(pair, x, latents, 1 + size)
        log_joint = sum_terms(joint.log_p_terms())
        refuse_not_numbers(pair, "a log p(x, z)", log_joint)
        there = {  # where a latent is masked, its values tie, below any other
            name: where_there(joint.model.nodes[name], value.double(), -math.inf) for name, value in latents.items()
        }
        for name, value, rounding in _quantities(there, log_joint):
            tied = (value[1:] == value[0]) | ((value[1:] - value[0]).abs() <= rounding)
            below[name] = below.get(name, 0) + ((value[1:] < value[0]) & ~tied).sum(0)
            ties[name] = ties.get(name, 0) + tied.sum(0)
    return {name: below[name] + (torch.rand(num_rows(x)).to(n.device) * (n + 1)).long() for name, n in ties.items()}


def _quantities(latents: dict[str, Tensor], log_joint: Tensor) -> list[tuple[str, Tensor, Any]]:
    """The scalars to rank, by name, each `[1 + L, B]`, the truth first, and the difference within which they tie."""
    found: list[tuple[str, Tensor, Any]] = []
    for site, value in latents.items():
        entries = value.reshape(*log_joint.shape, -1).unbind(-1)
        found += [(name, entry, 0) for name, entry in zip(scalars(site, value.shape[2:]), entries, strict=True)]
    epsilon = torch.finfo(log_joint.dtype).eps
    return [*found, (LOG_JOINT, log_joint, ROUNDING * epsilon * (1 + log_joint[0].abs()))]


def _direction(rank: np.ndarray, num_samples: int, num_quantities: int) -> str:
    """What the slope or the curvature of the ranks' histogram says about the guide; empty if neither is significant."""
    u = (rank + 0.5) / (num_samples + 1) - 0.5
    variance = (1 - 1 / (num_samples + 1) ** 2) / 12
    slope = u.mean() * math.sqrt(len(u) / variance)
    curvature = (np.square(u).mean() - variance) * math.sqrt(180 * len(u))
    significant = stats.norm.isf(FALSE_WORDS / num_quantities / 4)
    if abs(slope) > max(significant, abs(curvature) / 2):
        return "too low" if slope > 0 else "too high"
    if abs(curvature) > significant:
        return "too narrow" if curvature > 0 else "too wide"
    return ""
