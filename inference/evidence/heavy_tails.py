"""Whether log w, whose mean is the ELBO, has a variance: it has none where the guide's tails are the heavier ones."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ppvae.inference.evidence.pareto import (
    EQUAL_WITHIN,
    FINITE_VARIANCE,
    khats_drawn_together,
    pareto_khat,
    tail_size,
    unshrunk,
)
from ppvae.inference.runtime.chunks import mean_with_error
from ppvae.inference.runtime.records import Measurement

FINITE_MEAN = 1.0
"""Pareto's k above which the mean is infinite."""

BY_CHANCE = 0.02
"""The share of data points that may seem to have heavy tails without a word."""

FALSE_ALARM = 0.01
"""The chance that data points with light tails are said to have heavy ones, whatever their number."""

LIGHT = 0.2
"""About the largest k-hat of light tails: that of chi-squared numbers, of a Gaussian guide, is 0.0 to 0.15."""

NEGLIGIBLE_ERROR = 0.01
"""Nats of standard error below which heavy tails do not matter: near an exact guide log w hardly varies."""


def lower_khat(least: Tensor, greatest: Tensor) -> Tensor:
    """Pareto k-hat of the lower tail of log w: above 1/2 its variance is infinite, above 1 its mean is.

    Args:
        least: the least log weights, `[tail_size(K) + 1, B]`, ascending.
        greatest: `[B]`.

    Returns:
        `[B]`; minus infinity where all are about equal.
    """
    depth = (greatest - least).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(greatest - least[-1] > EQUAL_WITHIN, pareto_khat(depth.log()), -torch.inf)


def mean_with_tail(log_w: Tensor) -> dict[str, Tensor]:
    """Of all log weights, `[K, B]`: `estimate` and `std_error` of their mean, and the `khat` of their lower tail."""
    log_w = log_w.double()
    least = log_w.topk(min(len(log_w), tail_size(len(log_w)) + 1), dim=0, largest=False).values
    return mean_with_error(log_w) | {"khat": lower_khat(least, log_w.amax(0))}


def elbo_record(found: Mapping[str, Tensor], num_samples: int, method: str, kind: str = "") -> Measurement:
    """The record of an ELBO from `estimate`, `std_error` and `khat`, `[N]` each, with a warning of heavy tails."""
    warning = warning_of_heavy_tails(found["khat"], found["std_error"], num_samples)
    return Measurement(found["estimate"], found["std_error"], num_samples, method, warning, kind)


def warning_of_heavy_tails(khat: Tensor, std_error: Tensor, num_samples: int) -> str:
    """What is wrong with an ELBO whose log weights have no finite variance, where more than chance speaks for it.

    Args:
        khat: of the lower tail of log w, `[N]`.
        std_error: of the ELBO, `[N]`.
        num_samples: of each data point.
    """
    counts = (std_error > NEGLIGIBLE_ERROR) & khat.isfinite()
    if not _beyond_chance(unshrunk(khat, num_samples)[counts], num_samples):
        return ""
    typical, _ = khats_drawn_together(khat, num_samples)
    bad = int((typical[counts] > FINITE_VARIANCE).sum())
    falls = ", and the ELBO may be minus infinity" if (typical[counts] > FINITE_MEAN).any() else ""
    num_points = len(std_error)
    if bad <= BY_CHANCE * num_points:
        return ""
    return (
        f"the log weights of {bad} of {num_points} data points have heavy tails (k-hat > {FINITE_VARIANCE}): their "
        f"mean and its standard error are not to be trusted{falls}; take a guide with lighter "
        "tails, or more samples, to see whether it falls"
    )


def _beyond_chance(k: Tensor, num_samples: int) -> bool:
    """Whether N k-hats say that some tails are heavy, `[N]`; those of light tails do with a chance of `FALSE_ALARM`.

    Each may say so by itself, or several together (Simes 1986, Biometrika 73(3)), or all by their mean.
    """
    if not (num := len(k)):
        return False
    noise = (1 + LIGHT) / math.sqrt(tail_size(num_samples))
    chance = torch.special.ndtr((LIGHT - k) / noise).sort().values
    some = chance <= FALSE_ALARM * torch.arange(1, num + 1, dtype=k.dtype, device=k.device) / num
    excess = (k.mean() - LIGHT) / noise * math.sqrt(num)
    every = k.mean() > FINITE_VARIANCE and torch.special.ndtr(-excess) <= FALSE_ALARM
    return bool(some.any() or every)
