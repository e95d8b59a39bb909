"""The error of the log of a mean of few weights, nearly lognormal, as those of AIS and of particle filters are."""

import math

import torch
from scipy.optimize import brentq
from scipy.special import digamma, ndtri, polygamma, stdtrit
from torch import Tensor

MOST_STD_ERROR = 0.5
"""Nats of standard error above which such estimates are not to be trusted: the weights are too uneven."""

LEAST_LOG_WEIGHT = -1000.0
"""Of the largest, as far as errors tell them apart."""

POWER = 2 / 3
"""Of a weight, by which it counts in the variance of its log."""

LEAST_DEGREES, MOST_DEGREES = 1.0, 1e6
"""Degrees of freedom of a variance, as far as they are told apart."""


def std_error(log_weight: Tensor) -> Tensor:
    """Of the log of the mean of K weights, by few of them; plus and minus 1.96 of it cover 95%.

    `sd(w) / (mean(w) sqrt(K))`, the delta method's, is too small for skewed weights when K is small, as the largest are
    seldom among them. Logs of AIS weights are nearly normal, and if they are exactly, `sd(w) / mean(w)` is
    `sqrt(exp(var(log w)) - 1)`: the larger of the two is taken. Where log w is normal its variance is the same under
    any power of w as a weight; with `w^(2/3)` chains that are stuck far below, and add nothing, do not count. The log
    of a mean of such weights varies no more than that of a single one, `sd(log w)`, by the Gaussian Poincare
    inequality, so neither does the error.

    Where none of the K weights happens to be large, estimate and variance are both too small, and it is just such data
    points that would pass for precise. So variances are also drawn toward what is typical of the data, as far as they
    differ by chance, and the error is at least what that implies, times Student's quantile to the normal one.

    Source: Chernoff 1981, Ann. Probab. 9(3), for the inequality; Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1), for
    variances drawn together.

    Args:
        log_weight: `[N, K]`.

    Returns:
        `[N]`, in nats; NaN for K = 1.

    Example:
        >>> log_w = torch.randn(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> std_error(log_w)
        tensor([0.5027], dtype=torch.float64)
    """
    num = log_weight.shape[1]
    if num == 1:
        return torch.full_like(log_weight[:, 0], math.nan)
    relative = log_weight - log_weight.amax(1, keepdim=True)
    w = relative.exp()
    by_weights = w.std(1) / w.mean(1) / math.sqrt(num)
    variance, degrees = variance_of_logs(relative.clamp(min=LEAST_LOG_WEIGHT))
    typical, of_typical = variances_drawn_together(variance, degrees)
    own, drawn = (torch.minimum((v.expm1() / num).sqrt(), v.sqrt()) for v in (variance, typical))
    return torch.stack([by_weights, own, student(of_typical) * drawn]).amax(0)


def student(degrees: Tensor) -> Tensor:
    """The ratio of Student's quantile to the normal one, at 97.5%."""
    within = degrees.clamp(LEAST_DEGREES, MOST_DEGREES)
    return torch.as_tensor(stdtrit(within.cpu().numpy(), 0.975) / ndtri(0.975)).to(degrees)


def variance_of_logs(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Of log w, `[N, K]`, under `w^(2/3)` as weights, unbiased where all are the same; and its degrees of freedom."""
    share = (POWER * log_w).softmax(1)
    mean = (share * log_w).sum(1, keepdim=True)
    lost = share.square().sum(1)
    variance = (share * (log_w - mean).square()).sum(1) / (1 - lost).clamp(min=torch.finfo(lost.dtype).eps)
    return variance, 1 / lost - 1


def variances_drawn_together(variance: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Variances drawn toward a typical one, as far as they differ by chance, and their degrees of freedom.

    True variances are taken as scaled inverse chi-squared; that distribution is fitted by the mean and the variance of
    the logs of the estimates, less those of a log chi-squared of known degrees of freedom.

    Args:
        variance: estimates, `[N]`.
        degrees: their degrees of freedom, `[N]`.
    """
    telling = (variance > 0) & (degrees > LEAST_DEGREES)
    if telling.sum() < 2:
        return variance, degrees
    half = degrees[telling] / 2
    logs = variance[telling].log() - half.digamma() + half.log()
    differ = (logs.var() - torch.special.polygamma(1, half).mean()).item()  # beyond chance
    if differ <= polygamma(1, MOST_DEGREES):
        return logs.mean().exp().expand_as(variance), torch.full_like(degrees, MOST_DEGREES)
    prior = 2 * brentq(lambda half: polygamma(1, half) - differ, 1e-3, MOST_DEGREES)
    typical = (logs.mean() + digamma(prior / 2) - math.log(prior / 2)).exp()
    return (prior * typical + degrees * variance) / (prior + degrees), prior + degrees
