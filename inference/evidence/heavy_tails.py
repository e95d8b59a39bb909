"""Whether log w, whose mean is the ELBO, has a variance: it has none where the guide's tails are the heavier ones."""

import torch
from torch import Tensor

from ppvae.inference.evidence.pareto import EQUAL_WITHIN, FINITE_VARIANCE, drawn_together, pareto_khat

BY_CHANCE = 0.02
"""The share of data points that may seem to have heavy tails without a word."""

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


def warning_of_heavy_tails(khat: Tensor, std_error: Tensor, num_samples: int) -> str:
    """What is wrong with an ELBO whose log weights have no finite variance; a few of N points seem so by chance.

    Args:
        khat: of the lower tail of log w, `[N]`.
        std_error: of the ELBO, `[N]`.
        num_samples: of each data point.
    """
    khat = drawn_together(khat, num_samples)[std_error > NEGLIGIBLE_ERROR]
    bad, num_points = int((khat[khat.isfinite()] > FINITE_VARIANCE).sum()), len(std_error)
    if bad <= BY_CHANCE * num_points:
        return ""
    return (
        f"the log weights of {bad} of {num_points} data points have heavy tails (k-hat > {FINITE_VARIANCE}): their "
        "mean and its standard error are not to be trusted, and the ELBO may be minus infinity; take a guide with "
        "lighter tails, or more samples, to see whether it falls"
    )
