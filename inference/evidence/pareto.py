"""Pareto k-hat: how heavy the tail of importance weights is, whether to trust their mean, and how to smooth them."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LOG_TINY = math.log(torch.finfo(torch.float64).tiny)
MIN_TAIL = 5
FINITE_VARIANCE = 0.5
"""Pareto's k above which the variance is infinite."""
EQUAL_WITHIN = 1e-3
PRIOR_WEIGHT, PRIOR_MEAN = 10, 0.5
"""Pseudo-observations of k, and their value."""


def tail_size(num_particles: int) -> int:
    """M, how many of K weights count as the tail: `ceil(min(K / 5, 3 sqrt(K)))`."""
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_khat(largest: Tensor) -> Tensor:
    """The shape k of the generalized Pareto distribution fitted to the M largest of K importance weights.

    Weights have finite moments up to order `1/k`: below k = 1/2 their variance is finite, above 1 not even their mean
    is. k-hat > 0.7 means that estimate, standard error and effective sample size are not to be trusted at any
    practical K (for small K the threshold is `1 - 1 / log10(K)`). The fit is Zhang & Stephens' posterior mean of k,
    shrunk toward 1/2 by ten pseudo-observations.

    Not a proof: a mode that the guide never visits leaves no trace in the weights. Where the M largest agree to 0.001
    nats, that is, up to rounding (an exact guide, a discrete latent), there is no tail, and k-hat is minus infinity.
    With one to four weights above the cutoff (always so for K <= 20) there is too little to fit: plus infinity.

    Source: Zhang & Stephens 2009, Technometrics 51(3); Vehtari et al. 2024, JMLR 25(72) (arXiv:1507.02646).

    Args:
        largest: the `tail_size(K) + 1` largest log weights per data point, `[M + 1, N]`, largest first, float64. The
            last is the cutoff.

    Returns:
        k-hat, `[N]`.

    Example:
        >>> u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        >>> log_w = -0.4 * u.log()                                   # a Pareto distribution with k = 0.4
        >>> pareto_khat(log_w.topk(tail_size(4000) + 1).values.unsqueeze(-1))
        tensor([0.4053], dtype=torch.float64)
    """
    khat = torch.full_like(largest[0], math.inf)
    for tail in _tails(largest):
        khat[tail.at] = tail.k
    khat[_equal(largest)] = -math.inf
    return khat


def unshrunk(khat: Tensor, num_particles: int) -> Tensor:
    """k-hat as the data have it, without the pseudo-observations that draw a single one toward 1/2."""
    return khat + (khat - PRIOR_MEAN) * PRIOR_WEIGHT / tail_size(num_particles)


def khats_drawn_together(khat: Tensor, num_particles: int) -> tuple[Tensor, Tensor]:
    """k-hat of each data point, drawn toward the mean of all as far as its differences from it are noise; its error.

    A guide that is too narrow is so for many data points, and where its draws have missed a tail by chance, k-hat looks
    best just where the estimate is worst. The mean over the data does not depend on such chances. It is the estimate of
    James and Stein, without the shrinking toward 1/2 that a single k-hat needs, and with `(1 + k)^2 / M` as noise.

    Where k differs between data points no mean can tell, and each stands as it was drawn, with nearly all of its noise.
    The error says so: it is what the estimate takes of a data point's own noise, and zero where that is nothing.

    Args:
        khat: of N data points; what is infinite stays so, what is NaN too.
        num_particles: K, of the weights of each.

    Returns:
        k, and its standard error, `[N]` each.

    Example:
        >>> khats_drawn_together(torch.tensor([0.4, 0.6, 0.7], dtype=torch.float64), 1000)[0]  # but noise
        tensor([0.5737, 0.5737, 0.5737], dtype=torch.float64)
        >>> k, std_error = khats_drawn_together(torch.tensor([0.0, 0.1, 1.4], dtype=torch.float64), 1000)
        >>> k
        tensor([0.0038, 0.1031, 1.3931], dtype=torch.float64)
        >>> std_error
        tensor([0.0921, 0.1028, 0.2425], dtype=torch.float64)
    """
    size, finite = tail_size(num_particles), khat.isfinite()
    k = unshrunk(khat, num_particles)
    own = torch.where(finite, (1 + k).clamp(min=0) / math.sqrt(size), 0)
    if finite.sum() < 2:
        return k, own
    mean, noise = k[finite].mean(), (1 + k[finite]).square().mean() / size
    noise = noise * (1 + 2 * math.sqrt(2 / int(finite.sum())))  # variances vary, too
    kept = 1 - noise / k[finite].var().clamp(min=noise)
    return torch.where(finite, mean + kept * (k - mean), khat), kept.sqrt() * own


def smoothed(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed importance weights, as logs, and k-hat.

    The M largest of K weights are replaced, in their order, by the quantiles `(m - 1/2) / M` of the generalized Pareto
    distribution fitted to them, truncated at the largest original weight. That reduces the variance of self-normalized
    estimates at the cost of a bias that is small while k-hat is below 0.7, and unknown above. Where k-hat is infinite
    (equal weights, or too few) they stay as they are.

    Source: Vehtari et al. 2024, JMLR 25(72) (arXiv:1507.02646).

    Args:
        log_w: log weights, `[K, N]`, float64.

    Returns:
        Log weights whose exponentials have the sum 1 over K, `[K, N]`, and k-hat, `[N]`.

    Example:
        >>> log_w = torch.tensor([[0.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
        >>> smoothed(log_w)[0].exp()
        tensor([[0.5000, 0.7311],
                [0.5000, 0.2689]], dtype=torch.float64)
    """
    num = len(log_w)
    largest, place = log_w.topk(min(num, tail_size(num) + 1), dim=0)
    khat = pareto_khat(largest)
    result = log_w.clone()
    for tail in _tails(largest):
        upper = 1 - (torch.arange(tail.size, dtype=log_w.dtype, device=log_w.device) + 0.5) / tail.size
        quantiles = tail.scale * torch.expm1(-tail.k * torch.log1p(-upper).unsqueeze(-1)) / tail.k + tail.cutoff
        at = tail.at & khat.isfinite()
        result[place[: tail.size, at], at.nonzero().flatten()] = (
            quantiles[:, at[tail.at]].log().clamp(max=0) + largest[0, at]
        )
    return result - result.logsumexp(0), khat


class _Tail(NamedTuple):
    """Tails of one size, M."""

    size: int
    at: Tensor
    """The data points that have them, a mask, `[N]`."""
    cutoff: Tensor
    """As a fraction of the largest weight; `[n]` for those n data points, like the next."""
    k: Tensor
    scale: Tensor


def _tails(largest: Tensor) -> Iterator[_Tail]:
    """The fits to the largest log weights, `[M + 1, N]`, without those that have too small a tail."""
    relative = largest - largest[0]
    cutoff = relative[-1].clamp(min=LOG_TINY)
    sizes = (relative > cutoff).sum(0)
    for size in sizes[sizes >= MIN_TAIL].unique().tolist():  # ties at the cutoff shorten some tails
        at = sizes == size
        yield _Tail(size, at, cutoff[at].exp(), *_fit(relative[:size, at].exp() - cutoff[at].exp()))


def _equal(largest: Tensor) -> Tensor:
    """Where the largest log weights are all the same, up to rounding: a mask, `[N]`."""
    return (largest[-1] - largest[0] > -EQUAL_WITHIN) & (len(largest) > MIN_TAIL)


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """k and the scale of excesses over the cutoff, `[n, N]`, largest first."""
    n = len(excess)
    num_grid = 30 + int(n**0.5)
    steps = torch.arange(num_grid, dtype=excess.dtype, device=excess.device).unsqueeze(-1) + 0.5
    quartile = excess[n - int(n / 4 + 0.5)]
    theta = 1 / excess[0] + (1 - (num_grid / steps).sqrt()) / (3 * quartile)  # [grid, N]
    k = torch.log1p(-theta.unsqueeze(1) * excess).mean(1)
    profile = n * ((-theta / k).log() - k - 1)
    posterior_mean = (profile.softmax(0) * theta).sum(0)
    k = torch.log1p(-posterior_mean * excess).mean(0)
    return (n * k + PRIOR_WEIGHT * PRIOR_MEAN) / (n + PRIOR_WEIGHT), -k / posterior_mean
