"""Pareto k-hat: how heavy is the tail of the importance weights, and so, is their mean to be trusted."""

import math

import torch
from torch import Tensor

LOG_TINY = math.log(torch.finfo(torch.float64).tiny)
MIN_TAIL = 5
EQUAL_WITHIN = 1e-3


def tail_size(num_particles: int) -> int:
    """M, how many of K weights count as the tail: `ceil(min(K / 5, 3 sqrt(K)))`."""
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_khat(largest: Tensor) -> Tensor:
    """The shape k of the generalised Pareto distribution fitted to the M largest of K importance weights.

    Weights have finite moments up to order `1/k`: below k = 1/2 their variance is finite, above 1 not even their mean
    is. k-hat > 0.7 means that estimate, standard error and effective sample size are not to be trusted at any
    practical K (for small K the threshold is `1 - 1 / log10(K)`). The fit is Zhang & Stephens' posterior mean of k,
    drawn towards 1/2 by ten pseudo-observations.

    Not a proof: a mode that the guide never visits leaves no trace in the weights. Where the M largest agree to 0.001
    nats, and so but for rounding (an exact guide, a discrete latent), there is no tail, and k-hat is minus infinity.
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
    relative = largest - largest[0]
    cutoff = relative[-1].clamp(min=LOG_TINY)
    sizes = (relative > cutoff).sum(0)
    khat = torch.full_like(largest[0], math.inf)
    for size in sizes[sizes >= MIN_TAIL].unique().tolist():  # ties at the cutoff shorten some tails
        at = sizes == size
        khat[at] = _fit(relative[:size, at].exp() - cutoff[at].exp())
    if len(largest) > MIN_TAIL:
        khat[relative[-1] > -EQUAL_WITHIN] = -math.inf
    return khat


def _fit(excess: Tensor) -> Tensor:
    """k of excesses over the cutoff, `[n, N]`, largest first."""
    n = len(excess)
    num_grid = 30 + int(n**0.5)
    steps = torch.arange(num_grid, dtype=excess.dtype, device=excess.device).unsqueeze(-1) + 0.5
    quartile = excess[n - int(n / 4 + 0.5)]
    theta = 1 / excess[0] + (1 - (num_grid / steps).sqrt()) / (3 * quartile)  # [grid, N]
    k = torch.log1p(-theta.unsqueeze(1) * excess).mean(1)
    profile = n * ((-theta / k).log() - k - 1)
    posterior_mean = (profile.softmax(0) * theta).sum(0)
    k = torch.log1p(-posterior_mean * excess).mean(0)
    prior_weight, prior_mean = 10, 0.5
    return (n * k + prior_weight * prior_mean) / (n + prior_weight)
