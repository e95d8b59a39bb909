"""What each latent site is used for: its KL, what it says about the data, and how many dimensions are active."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.arguments import checked
from ppvae.batches import Batch, num_rows, some_rows
from ppvae.inference.runtime.records import Measurement
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.sites import log_prob_terms, presence, sample_sites
from ppvae.tracing import draw_latents

ACTIVE_VARIANCE = 0.01
NOISE = 3.0
"""Standard errors of a variance of means that are all equal, which an active dimension exceeds."""

COLLAPSED_KL = 0.05
"""KL of a whole site, in nats, below which it counts as collapsed."""

MOST_POINTS, DRAWS, DRAWS_BEFORE = 200, 10, 20
"""Data points, and draws for each, from which mutual information is estimated; and draws of the sites before."""


@checked
@dataclass(frozen=True)
class LatentUsage:
    """How a latent site is used.

    Attributes:
        kl: `E_q[log q(z_l | .) - log p(z_l | .)]` per data point; the sum over sites and data points is what the ELBO
            pays for the latents.
        mutual_information: of the site and the data index, in nats, under the guide. For the guide's first site
            `E KL(q(z | x) || p(z)) = mutual information + KL(q(z) || p(z))`; for one drawn given others it is estimated
            from a few draws of these, and may then be too low. Where masks differ, it is given which entries are there.
            NaN where the guide knows the density only of its own draws, as one with a planar flow does, for sites that
            an exact summation ties together, and for one that is masked by what others draw.
        most_information: the log of the number of data points, which that estimate cannot exceed; near it the true
            value may be larger.
        active_units: dimensions whose posterior mean has a variance over the data of more than 0.01 (Burda et al. 2016,
            arXiv:1509.00519), and more than Monte Carlo noise alone would show. None where that cannot be told: of one
            data point, or by one draw for each.
        num_units: dimensions.
        is_kl: whether `kl` is an expected KL divergence. It is not where a site that this one depends on in the model
            depends on it in the guide (a bottom-up guide): it may then be negative, and says little by itself.
    """

    kl: Measurement
    mutual_information: float
    most_information: float
    active_units: int | None
    num_units: int
    is_kl: bool = True

    @property
    def term(self) -> str:
        """What to call `kl`."""
        return "KL" if self.is_kl else "E log q/p"

    @property
    def collapsed(self) -> bool:
        """Whether the site carries next to nothing: a KL below 0.05 nats, in the mean over the data points that pay
        any, as a masked latent pays none where it is not there; where `kl` is no KL, no active dimension."""
        if not self.is_kl:
            return self.active_units == 0
        paid = self.kl.estimate[self.kl.estimate != 0]
        return not len(paid) or paid.mean().item() < COLLAPSED_KL


def active_units(means: Tensor, noise: Tensor) -> int | None:
    """How many of D dimensions are active, from estimated posterior means, `[N, D]`, corrected for the variance `noise`
    of the estimates; both NaN where a latent is not there. None where no dimension can be told."""
    num = (~means.isnan()).sum(0)
    variance = (means - means.nanmean(0)).square().nansum(0) / (num - 1) - noise.nanmean(0)
    error = (2 * noise.square().nanmean(0) / (num - 1)).sqrt()
    told = (num > 1) & variance.isfinite()
    if not told.any():
        return None
    return int((told & (variance > (NOISE * error).clamp(min=ACTIVE_VARIANCE))).sum())


def mutual_information(pair: Pair, batch: Batch) -> dict[str, float]:
    """`E[log q(z_l | x) - log q(z_l)]` by site, the latter the average of the former over the data.

    Each data point's draws are scored under the guide of every other, averaged over draws of the sites before. Of more
    than 200 data points any 200 count.

    Source: as a bound where that average is noisy, van den Oord et al. 2018 (arXiv:1807.03748).
    """
    latents = draw_latents(pair, batch, DRAWS)
    alone, given = (sample_sites(run(pair, "guide", batch, num)) for num in (1, DRAWS_BEFORE))
    first = next(iter(latents))
    chosen = some_rows(num_rows(batch), MOST_POINTS)
    sites = {name: (alone if name == first else given)[name] for name in latents}
    return {name: _information(name, sites[name], z, chosen) for name, z in latents.items()}


def _information(name: str, site: Mapping[str, Any], draws: Tensor, chosen: Tensor) -> float:
    """Of the draws of a site, `[K, B, *event]`, and the index of the chosen data points."""
    if (pattern := _patterns(site)) is None:
        return math.nan
    order, scores = torch.arange(draws.shape[1]), []
    for shift in range(len(chosen)):
        order[chosen] = chosen.roll(-shift)
        under_other = torch.stack([_log_density(name, site, z) for z in draws[:, order]])
        alike = pattern == pattern[order]
        scores.append(under_other.where(alike, -math.inf)[:, chosen].roll(shift, 1))
    log_q = torch.stack(scores)  # under each data point, the first being its own
    num_alike = pattern[chosen].bincount()[pattern[chosen]]
    return (log_q[0] - (log_q.logsumexp(0) - num_alike.log())).mean().item()


def _patterns(site: Mapping[str, Any]) -> Tensor | None:
    """Which data points have the same entries of a site, numbers `[B]`; None if particles differ in that."""
    shape = site["value"].shape
    if (mask := presence(site)) is None:
        return torch.zeros(shape[1], dtype=torch.long)
    there = mask.expand(shape).cpu()
    if (there != there[:1]).any():
        return None
    return there[0].reshape(shape[1], -1).unique(dim=0, return_inverse=True)[1]


def _log_density(name: str, site: Mapping[str, Any], value: Tensor) -> Tensor:
    """Of a value, `[B, *event]`, under a traced site, averaged over its particles, `[B]`."""
    own: Any = site["value"]
    trace = poutine.Trace()
    trace.add_node(name, **{**site, "value": value.expand(own.shape)})
    log_q = log_prob_terms(trace)[name].double().cpu().expand(len(own), len(value))
    return log_q.logsumexp(0) - math.log(len(log_q))
