"""Whether a Gaussian likelihood is as wide as what it leaves unexplained."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ppvae.batches import Batch, num_rows
from ppvae.inference.evidence.iwae import MOST_KHAT
from ppvae.inference.evidence.pareto import smoothed
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.pair import Pair
from ppvae.sites import sample_sites
from ppvae.tracing import trace_pair
from ppvae.weights import weights_of


@dataclass(frozen=True)
class LikelihoodScale:
    """What rescaling the standard deviation of an observed Gaussian site, by one number, would gain on new data.

    With r the mean of `((x - mu) / sigma)^2` over its D dimensions, the data and the posterior, the factor `sqrt(r)` is
    the EM algorithm's step. On the data it is from, it gains at least `D / 2 (r - 1 - log r)` nats, by chance too where
    sigma is right. So each data point is given the factor `sqrt(s_i)` that the others have, `s_i = mean_{j != i} r_j`,
    by which its log p(x) rises by at least `D / 2 (r_i (1 - 1 / s_i) - log s_i)` nats, and the gain is the mean of
    that: negative where there is nothing to gain. The posterior is the guide's draws by their importance weights; a
    poor guide by itself makes r neither large nor small. All is NaN where these weights are not to be trusted for most
    of the data, and for a single data point.

    Source: Dempster et al. 1977, JRSS B 39(1), for EM; Stone 1974, JRSS B 36(2), for leaving one out.

    Attributes:
        factor: `sqrt(r)`; below 1 the likelihood is too wide.
        gain: nats per data point.
        std_error: of the gain, over data points.
        monte_carlo_error: of the gain, on these data.
    """

    factor: float
    gain: float
    std_error: float
    monte_carlo_error: float


def likelihood_scale(pair: Pair, batch: Batch, num_samples: int) -> dict[str, LikelihoodScale]:
    """For each observed site that is Gaussian, unless an exact summation ties discrete sites to it."""

    def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
        pieces = [_squares(pair, points, size) for size in sizes(num_draws, at_once)]
        found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        log_share, khat = smoothed(found.pop("").double())
        share = log_share.exp()
        result = {"": khat}
        for name, squares in found.items():
            means = squares.double().mean(-1)  # over the site's dimensions
            mean = (share * means).sum(0)
            variance = (share * (means - mean)).square().sum(0)
            result[name] = torch.stack([mean, variance, torch.full_like(mean, squares.shape[-1])], -1)
        return result

    found = over_data(pair, batch, num_samples, measure, None)
    trusted = found.pop("") <= MOST_KHAT
    can_be_told = len(trusted) > 1 and trusted.double().mean().item() > 0.5
    return {name: _of(each[trusted], can_be_told) for name, each in found.items()}


def _squares(pair: Pair, points: Batch, num: int) -> dict[str, Tensor]:
    """`((x - mu) / sigma)^2` of each Gaussian site, `[K, B, D]`; under the empty name the log weights, `[K, B]`."""
    joint = trace_pair(pair, points, num)
    found = {"": weights_of(joint).log_w}
    for name, site in sample_sites(joint.model, observed=True).items():
        base: Any = site["fn"]
        while isinstance(base, Independent):
            base = base.base_dist
        if isinstance(base, Normal) and len(site["fn"].batch_shape) == 2:
            squares = ((site["value"] - base.loc) / base.scale).square()
            found[name] = squares.expand(num, num_rows(points), *site["fn"].event_shape).reshape(*joint.shape, -1)
    return found


def _of(found: Tensor, can_be_told: bool) -> LikelihoodScale:
    """From each data point's mean square, that mean's variance, and the number of dimensions, `[N, 3]`."""
    if not can_be_told:
        return LikelihoodScale(*[math.nan] * 4)
    means, variances, dims = found.unbind(-1)
    r, num, num_dims = means.mean(), len(means), dims[0].item()
    of_others = (means.sum() - means) / (num - 1)
    gains = num_dims / 2 * (means * (1 - 1 / of_others) - of_others.log())
    slope = num_dims / 2 * (1 - 1 / r).abs()
    return LikelihoodScale(
        factor=r.sqrt().item(),
        gain=gains.mean().item(),
        std_error=(gains.std() / math.sqrt(num)).item(),
        monte_carlo_error=(slope * variances.sum().sqrt() / num).item(),
    )
