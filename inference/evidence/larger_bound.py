"""The best of several stochastic lower bounds, without the bias of choosing a noisy maximum."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ppvae.inference.evidence.method import EvidenceMethod, Halves
from ppvae.inference.runtime.records import Evidence, Measurement

GAIN = 2.0
"""Joint standard errors by which a bound must exceed the most precise one to be taken in its place."""

SHORTFALL = 2.5
"""Standard errors of their sum by which bounds must exceed another method's, over the data, to discredit it."""

MOST_ERROR = 1.5
"""Nats of standard error that are told apart: a larger one says that weights are few, not how far off their mean is."""

ROUNDING_ERROR = 1e-6
"""Nats that count as no difference: where weights are equal, errors are zero up to rounding."""


def larger_bound(candidates: Mapping[str, Halves], methods: Mapping[str, EvidenceMethod]) -> Evidence:
    """For each data point, the most precise of the methods' bounds, or one that is larger beyond their errors.

    Each half's estimate of p(x) is taken from the method that the *other* half chooses, and the two are averaged. The
    choice is independent of the estimate it takes, so the average has the mean p(x), and its log is a stochastic lower
    bound, whichever is chosen. Where the halves agree, the result is that method's whole estimate; where they do not,
    half the distance between the two methods' estimates is added to the standard error. A method that falls short of
    another in the mean over the data points where both are reliable is not taken at all: a narrow guide's importance
    weights look precise.

    Args:
        candidates: two halves by method.
        methods: the registry, whose methods judge the pooled halves.
    """
    whole = {name: pooled(halves, methods) for name, halves in candidates.items()}
    names = [name for name, each in whole.items() if not any(shortfall(each, o, each.reliable) for o in whole.values())]
    chosen = [_chosen([candidates[name][half] for name in names]) for half in (1, 0)]
    taken = []
    for half, by_the_other in enumerate(chosen):
        record = candidates[names[0]][half]
        for number, name in enumerate(names):
            record = record.with_rows(by_the_other == number, candidates[name][half])
        taken.append(record)
    found = pooled((taken[0], taken[1]), methods)
    estimates = torch.stack([whole[name].estimate for name in names])
    first, second = (estimates.gather(0, by[None])[0] for by in chosen)
    counts = [f"{name} for {int((chosen[1] == number).sum())}" for number, name in enumerate(names)]
    short = [name for name in whole if name not in names]
    without = f"; not {', '.join(short)}, which fell short in the mean" if short else ""
    return replace(
        found,
        std_error=torch.hypot(found.std_error, (first - second) / 2),
        method="best",
        reason=f"the most precise, or larger beyond errors: {', '.join(counts)} of {len(first)} data points{without}",
        candidates=whole,
    )


def _chosen(halves: list[Evidence]) -> Tensor:
    """Of the methods, by number, the most precise reliable one, or the largest of those beyond its errors."""
    estimates = torch.stack([half.estimate for half in halves])
    errors = torch.stack([half.std_error.nan_to_num(math.inf) for half in halves])
    reliable = torch.stack([half.reliable for half in halves])
    base = torch.where(reliable | ~reliable.any(0), errors, math.inf).argmin(0)[None]
    exceeds = estimates - estimates.gather(0, base) > GAIN * torch.hypot(errors, errors.gather(0, base))
    return torch.where(exceeds.any(0), estimates.masked_fill(~exceeds, -math.inf).argmax(0), base[0])


def raised(found: Evidence, bounds: Mapping[str, Measurement]) -> Evidence:
    """The record with a larger of other lower bounds at data points that are not reliable, if any is larger there.

    Bounds are noisy, and the largest of them would be too large. So one counts as larger if it exceeds the estimate by
    two joint standard errors, or by 3 nats; and, where the two agree within that, if it is more precise, and larger in
    the mean over these data points. They stay unreliable: how far an ELBO is from log p(x) is not known. A bound with a
    warning is not taken.

    Args:
        found: log p(x), as it was measured.
        bounds: lower bounds of it on the same data points, by name.
    """
    for name, bound in bounds.items():
        if bound.warning:
            continue
        more = bound.estimate - found.estimate
        joint = torch.hypot(bound.std_error, found.std_error).nan_to_num(MOST_ERROR).clamp(max=MOST_ERROR)
        known = ~found.reliable & bound.std_error.isfinite()
        at, agree = known & (more > GAIN * joint), known & (more.abs() <= GAIN * joint)
        errors = [each.std_error.nan_to_num(math.inf)[agree].square().sum() for each in (bound, found)]
        if errors[0] < errors[1] and more[agree].sum() > 0:
            at |= agree
        if at.any():
            of_it = {"estimate": bound.estimate, "std_error": bound.std_error}
            found = found.with_rows(at, Evidence.of(name, bound.num_particles, of_it, torch.zeros_like(at)))
    return found


def shortfall(found: Evidence, other: Evidence, at: Tensor) -> float:
    """Nats by which bounds fall short of others, in the mean over some data points; zero if that may be noise.

    It is noise if the sum of the differences, each in its standard errors, is within `2.5 sqrt(N)` (Stouffer's test): a
    few large differences count as much as many small ones, however noisy the others are.

    Args:
        found: the bounds in question.
        other: others on the same data points.
        at: the data points, `[N]`; of them, those where `other` is reliable.
    """
    at = at & other.reliable & found.std_error.isfinite() & other.std_error.isfinite()
    gain = (other.estimate - found.estimate)[at]
    scaled = gain / torch.hypot(other.std_error, found.std_error)[at].clamp(min=ROUNDING_ERROR)
    return max(0.0, gain.mean().item()) if scaled.sum() > SHORTFALL * len(gain) ** 0.5 else 0.0


def pooled(halves: Halves, methods: Mapping[str, EvidenceMethod]) -> Evidence:
    """The record of both halves' draws together, judged for each data point by all methods that took part in it."""
    first, second = halves
    estimates = torch.stack([first.estimate, second.estimate])
    share = estimates.softmax(0)  # of the sum of all weights
    ess, std_error, acceptance, divergences = (
        torch.stack([getattr(first, name), getattr(second, name)])
        for name in ("ess", "std_error", "acceptance", "divergences")
    )
    khat = (first.khat + second.khat) / 2
    found = {
        "estimate": estimates.logsumexp(0) - math.log(2),
        "std_error": (share * std_error).square().sum(0).sqrt(),
        "ess": 1 / (share.square() / ess).sum(0),
        "khat": torch.where(khat.isfinite(), khat, torch.fmax(first.khat, second.khat)),
        "acceptance": acceptance.mean(0),
        "divergences": divergences.sum(0),
        "num_particles": torch.tensor(first.num_particles),  # as k-hat is either half's
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
