"""The larger of several stochastic lower bounds, without the bias of choosing a noisy maximum."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ppvae.inference.evidence.method import EvidenceMethod, Halves
from ppvae.inference.runtime.records import Evidence


def larger_bound(candidates: Mapping[str, Halves], methods: Mapping[str, EvidenceMethod]) -> Evidence:
    """For each data point, the largest of the methods' bounds.

    Each half's estimate of p(x) is taken from the method that the *other* half finds largest, and the two are averaged.
    The choice is independent of the estimate it takes, so the average has the mean p(x), and its log is a stochastic
    lower bound, whichever is chosen. Where the halves agree, as they do where it matters, the result is that method's
    whole estimate. Bounds are compared less their standard errors, so that of two good ones the more precise is taken.

    Args:
        candidates: two halves by method.
        methods: the registry, whose methods judge the pooled halves.
    """
    names = list(candidates)
    low = torch.stack([torch.stack([half.estimate - half.std_error for half in candidates[name]]) for name in names])
    chosen_by_first, chosen_by_second = low.argmax(0)
    taken = []
    for half, chosen in enumerate((chosen_by_second, chosen_by_first)):
        record = candidates[names[0]][half]
        for number, name in enumerate(names):
            record = record.with_rows(chosen == number, candidates[name][half])
        taken.append(record)
    counts = [f"{name} for {int((chosen_by_first == number).sum())}" for number, name in enumerate(names)]
    return replace(
        pooled((taken[0], taken[1]), methods),
        method="best",
        reason=f"the largest by half of the draws: {', '.join(counts)} of {len(chosen)} data points",
        candidates={name: pooled(halves, methods) for name, halves in candidates.items()},
    )


def pooled(halves: Halves, methods: Mapping[str, EvidenceMethod]) -> Evidence:
    """The record of both halves' draws together, judged for each data point by all methods that took part in it."""
    first, second = halves
    estimates = torch.stack([first.estimate, second.estimate])
    share = estimates.softmax(0)  # of the sum of all weights
    ess, std_error, acceptance, divergences = (
        torch.stack([getattr(first, name), getattr(second, name)])
        for name in ("ess", "std_error", "acceptance", "divergences")
    )
    found = {
        "estimate": estimates.logsumexp(0) - math.log(2),
        "std_error": (share * std_error).square().sum(0).sqrt(),
        "ess": 1 / (share.square() / ess).sum(0),
        "khat": torch.fmax(first.khat, second.khat),
        "acceptance": acceptance.mean(0),
        "divergences": divergences.sum(0),
    }
    taken = [tuple(dict.fromkeys(names)) for names in zip(first.methods, second.methods, strict=True)]
    return replace(
        Evidence.of(
            first.method,
            first.num_particles + second.num_particles,
            found,
            _reliable(taken, found, methods),
            tuple(dict.fromkeys(first.limits + second.limits)),
        ),
        methods=tuple(", ".join(names) for names in taken),
    )


def _reliable(
    taken: list[tuple[str, ...]], found: Mapping[str, Tensor], methods: Mapping[str, EvidenceMethod]
) -> Tensor:
    reliable = torch.ones(len(taken), dtype=torch.bool)
    for name in {name for names in taken for name in names}:
        by_it = torch.tensor([name in names for names in taken])
        reliable &= ~by_it | methods[name].reliable(found)
    return reliable
