"""The larger of several stochastic lower bounds, without the bias of choosing a noisy maximum."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from ppvae.inference.runtime.records import Evidence

Halves = tuple[Evidence, Evidence]
"""Two independent records of one method, of as many draws each."""


def larger_bound(candidates: Mapping[str, Halves]) -> Evidence:
    """For each data point the larger of the bounds, by method.

    Each half's estimate of p(x) is taken from the method that the *other* half finds largest, and the two are averaged.
    What is chosen does not depend on what is then taken, so the average has the mean p(x), and its log is a stochastic
    lower bound, whichever is chosen. Where the halves agree, as they do where it matters, it is the whole estimate.
    Largest is the bound less its standard error, that of two good ones the more precise be taken.
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
        joined(*taken),
        method="best",
        reason=f"the largest, as half of the draws find it: {', '.join(counts)} of {len(chosen)} data points",
        candidates={name: joined(*halves) for name, halves in candidates.items()},
    )


def joined(first: Evidence, second: Evidence) -> Evidence:
    """The record of both halves' draws together."""
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
        "khat": torch.maximum(first.khat, second.khat),
        "acceptance": acceptance.mean(0),
        "divergences": divergences.sum(0),
    }
    whole = Evidence.of(first.method, first.num_particles + second.num_particles, found)
    methods = [a if a == b else f"{a}, {b}" for a, b in zip(first.methods, second.methods, strict=True)]
    return replace(whole, methods=tuple(methods))
