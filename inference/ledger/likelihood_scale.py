"""Whether a Gaussian likelihood is as wide as what it leaves unexplained."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from ppvae.batches import Batch, num_rows
from ppvae.inference.evidence.iwae import MOST_KHAT
from ppvae.inference.evidence.pareto import smoothed
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.pair import Pair
from ppvae.sites import sample_sites, where_there, wrapped
from ppvae.tracing import trace_pair
from ppvae.weights import weights_of


@dataclass(frozen=True)
class LikelihoodScale:
    """What rescaling the standard deviation of an observed Gaussian site, by one number, would gain on new data.

    With S_i the expected sum of `((x - mu) / sigma)^2` over the D_i numbers that data point i has (masked ones are not
    there), and `r = sum S_i / sum D_i`, the factor `sqrt(r)` is the EM algorithm's step. On the data it is from, it
    gains nats by chance too where sigma is right. So each data point is given the factor `sqrt(s_i)` that the others
    have, `s_i = sum_{j != i} S_j / sum_{j != i} D_j`, by which its log p(x) rises by at least
    `(S_i (1 - 1 / s_i) - D_i log s_i) / 2` nats, and the gain is the mean of that: negative where there is nothing to
    gain. The posterior is the guide's draws by their importance weights; a poor guide by itself makes r neither large
    nor small. All is NaN where these weights are not to be trusted for most of the data, and where fewer than two data
    points have the site.

    Source: Dempster et al. 1977, JRSS B 39(1), for EM; Stone 1974, JRSS B 36(2), for leaving one out.

    Attributes:
        factor: `sqrt(r)`; below 1 the likelihood is too wide.
        gain: nats per data point.
        std_error: of the gain, over data points.
        monte_carlo_error: of the gain, on these data.
        undefined: why all of these are NaN; empty if they are not.
    """

    factor: float
    gain: float
    std_error: float
    monte_carlo_error: float
    undefined: str = ""


def likelihood_scale(pair: Pair, batch: Batch, num_samples: int) -> dict[str, LikelihoodScale]:
    """For each observed site that is Gaussian, unless an exact summation ties discrete sites to it."""

    def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
        pieces = [_squares(pair, points, size) for size in sizes(num_draws, at_once)]
        found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        log_share, khat = smoothed(found.pop("").double())
        share = log_share.exp()
        result = {"": khat}
        for name, squares in found.items():
            sums, nums = squares.double().unbind(-1)
            total, num = (share * sums).sum(0), (share * nums).sum(0)
            result[name] = torch.stack([total, (share * (sums - total)).square().sum(0), num], -1)
        return result

    found = over_data(pair, batch, num_samples, measure, None)
    trusted = found.pop("") <= MOST_KHAT
    if trusted.double().mean().item() <= 0.5:
        return {name: _undefined("the guide is too far from the posterior to tell") for name in found}
    there = {name: torch.where(each[:, 2:].isnan(), 0.0, each) for name, each in found.items()}  # where a site is not
    return {name: _of(each[trusted]) for name, each in there.items()}


def _squares(pair: Pair, points: Batch, num: int) -> dict[str, Tensor]:
    """The sum of `((x - mu) / sigma)^2` of each Gaussian site over what is there of it, and how many numbers these are,
    `[K, B, 2]`; under the empty name the log weights, `[K, B]`."""
    joint = trace_pair(pair, points, num)
    found = {"": weights_of(joint).log_w}
    for name, site in sample_sites(joint.model, observed=True).items():
        *_, base = wrapped(site["fn"])
        if isinstance(base, Normal) and len(site["fn"].batch_shape) == 2:
            squares = ((site["value"] - base.loc) / base.scale).square()
            squares = squares.expand(num, num_rows(points), *site["fn"].event_shape)
            terms = where_there(site, torch.stack([squares, torch.ones_like(squares)]), 0.0)
            found[name] = terms.reshape(2, *joint.shape, -1).sum(-1).movedim(0, -1)
    return found


def _of(found: Tensor) -> LikelihoodScale:
    """From each data point's sum of squares, that sum's variance, and the number of its terms, `[N, 3]`."""
    sums, variances, nums = found.unbind(-1)
    if (having := int((nums > 0).sum())) < 2:
        return _undefined("one data point cannot tell" if having else "no data point has it")
    r, of_others = sums.sum() / nums.sum(), (sums.sum() - sums) / (nums.sum() - nums)
    gains = (sums * (1 - 1 / of_others) - nums * of_others.log()) / 2
    slope = (1 - 1 / r).abs() / 2
    return LikelihoodScale(
        factor=r.sqrt().item(),
        gain=gains.mean().item(),
        std_error=(gains.std() / math.sqrt(len(gains))).item(),
        monte_carlo_error=(slope * variances.sum().sqrt() / len(gains)).item(),
    )


def _undefined(why: str) -> LikelihoodScale:
    return LikelihoodScale(math.nan, math.nan, math.nan, math.nan, why)
