"""How the importance-weighted bound tightens with the number of particles, and where it is heading."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch
from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence.coverage import judged
from ppvae.inference.evidence.pareto import pareto_khat, tail_size
from ppvae.inference.evidence.streamed import log_weights
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.inference.runtime.measuring import finite, measuring
from ppvae.inference.runtime.records import Measurement
from ppvae.inference.runtime.sharing import measurement
from ppvae.pair import Pair

REPETITIONS = 4
"""Independent repetitions of the largest K, from which errors are estimated; smaller K share its draws."""


@checked
@dataclass(frozen=True)
class BoundCurve:
    """IWAE(K) for several K, and its limit.

    Attributes:
        num_particles: the K, rising.
        bounds: IWAE(K) of each, per data point. They share draws, so their errors are not independent.
        limit: the bound extrapolated to 1/K = 0: an estimate of log p(x), not a bound.
        khat: Pareto k-hat of the importance weights, `[N]`; above 1/2 their variance is infinite, and the law in 1/K
            does not hold.
    """

    num_particles: tuple[Count, ...]
    bounds: tuple[Measurement, ...]
    limit: Measurement
    khat: Tensor


@checked
@measurement
def bound_curve(
    pair: Pair,
    data: Any,
    num_particles: Sequence[Count] = (1, 10, 100, 1000),
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> BoundCurve:
    """IWAE(K) per data point for several K, extrapolated: `limit = (K IWAE(K) - J IWAE(J)) / (K - J)`.

    The bound falls short of log p(x) by `chi^2(posterior || q) / 2K` and terms of higher order; the line in 1/K through
    the two largest, K > J, removes the first. `ppvae.plots.bound_curve` draws it.

    When it is wrong: where the weights' variance is infinite (`khat` > 1/2) the bound rises more slowly than 1/K, and
    the limit is still too low, as it also is where even J is below chi^2. A mode that the guide never visits is missing
    from bounds and limit alike: compare with `ppvae.log_evidence(pair, data, "ais")`.

    Source: Burda et al. 2016 (arXiv:1509.00519); the law: Domke & Sheldon 2018 (arXiv:1808.09034); the limit is the
    jackknife of Nowozin 2018, from two K that are apart.

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict).
        num_particles: two or more different K. Each data point takes four times the largest.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: fewer than two different K, one below 1, or data that are not finite or outside the likelihood's
            support (the row is named).

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2).fit_guide(), torch.randn(50, 5)
        >>> curve = bound_curve(pair, x, [10, 100], seed=0)
        >>> exact, limit = pair.log_prob(x).mean().item(), curve.limit.mean()
        >>> abs(limit.estimate - exact) < 4 * limit.monte_carlo_error
        True
    """
    K = sorted(set(num_particles))
    if len(K) < 2:
        raise ValueError(f"num_particles: found {num_particles}, expected two or more different ones, for a line")
    with measuring(pair, data, seed) as batch:
        measure = partial(_in_blocks, pair, Repeated(pair, log_weights), K)
        title = "bounds" if progress else None
        found = finite(over_data(pair, batch, REPETITIONS * K[-1], measure, title, probe=partial(_one_weight, pair)))
        khat = judged(found["khat"], pair, batch)
    bounds = found["bounds"].unbind(-1)
    limit = (K[-1] * bounds[-1] - K[-2] * bounds[-2]) / (K[-1] - K[-2])
    return BoundCurve(
        num_particles=tuple(K),
        bounds=tuple(_measurement(blocks, k, "iwae") for blocks, k in zip(bounds, K, strict=True)),
        limit=_measurement(limit, K[-1], "iwae, extrapolated in 1/K"),
        khat=khat,
    )


def _measurement(blocks: Tensor, num_particles: int, method: str) -> Measurement:
    """Of values `[N, REPETITIONS]`."""
    return Measurement(blocks.mean(1), (blocks.var(1) / REPETITIONS).sqrt(), REPETITIONS * num_particles, method)


def _in_blocks(pair: Pair, draws: Repeated, K: list[int], batch: Batch, num: int, at_once: int) -> dict[str, Tensor]:
    """IWAE of each K within each block, from the same draws: `bounds`, `[B, REPETITIONS, len(K)]`."""
    log_w = torch.cat([draws(batch, size) for size in sizes(num, at_once)]).double()
    blocks = log_w.reshape(REPETITIONS, K[-1], -1)
    bounds = []
    for k in K:
        parts = blocks[:, : K[-1] // k * k].unflatten(1, (-1, k))
        bounds.append(parts.logsumexp(2).mean(1) - math.log(k))
    largest = log_w.topk(min(num, tail_size(num) + 1), dim=0).values
    return {
        "bounds": torch.stack(bounds, -1).transpose(0, 1),
        "estimate": log_w.logsumexp(0) - math.log(num),
        "khat": pareto_khat(largest),
    }


def _one_weight(pair: Pair, batch: Batch, num: int, at_once: int) -> dict[str, Tensor]:
    return {"log_w": log_weights(pair, batch, num)[0]}
