"""What each latent site is used for: its KL, what it says about the data, and how many dimensions are active."""

import math
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.inference.runtime.records import Measurement
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.sites import log_prob_terms, sample_sites
from ppvae.tracing import draw_latents

ACTIVE_VARIANCE = 0.01
COLLAPSED_KL = 0.05
"""KL of a whole site, in nats, below which it counts as collapsed."""

MOST_POINTS, DRAWS = 200, 10
"""Data points, and draws for each, from which mutual information is estimated."""


@dataclass(frozen=True)
class LatentUsage:
    """How a latent site is used.

    Attributes:
        kl: `E_q[log q(z_l | .) - log p(z_l | .)]` per data point; the sum over sites and data points is what the ELBO
            pays for the latents.
        mutual_information: of the site and the data index, given the sites before it in the guide, in nats, under the
            guide. `E KL(q(z | x) || p(z)) = mutual information + KL(q(z) || p(z))`, for all sites together. NaN where
            the guide knows the density only of its own draws, as one with a planar flow does.
        most_information: the log of the number of data points, which that estimate cannot exceed; near it the true
            value may be larger.
        active_units: dimensions whose posterior mean has a variance over the data of more than 0.01 (Burda et al. 2016,
            arXiv:1509.00519).
        num_units: dimensions.
        is_kl: whether `kl` is an expected KL divergence. It is not where a site that this one depends on in the model
            depends on it in the guide (a bottom-up guide): it may then be negative, and says little by itself.
    """

    kl: Measurement
    mutual_information: float
    most_information: float
    active_units: int
    num_units: int
    is_kl: bool = True

    @property
    def term(self) -> str:
        """What to call `kl`."""
        return "KL" if self.is_kl else "E log q/p"

    @property
    def collapsed(self) -> bool:
        """Whether the site carries next to nothing: a KL below 0.05 nats; where there is none, no active dimension."""
        return self.kl.mean().estimate < COLLAPSED_KL if self.is_kl else self.active_units == 0


def active_units(means: Tensor, noise: Tensor) -> int:
    """How many of D dimensions are active, from estimated posterior means, `[N, D]`, corrected for the variance `noise`
    of the estimates."""
    if len(means) < 2:
        return 0
    return int((means.var(0) - noise.mean(0) > ACTIVE_VARIANCE).sum())


def mutual_information(pair: Pair, batch: Batch) -> dict[str, float]:
    """`E[log q(z_l | z_<l, x) - log q(z_l | z_<l)]` by site, the latter averaged over the guide's posteriors of z_<l.

    Each data point's draws are scored under the guide of every other. Of more than 200 data points the first count.
    """
    num = min(num_rows(batch), MOST_POINTS)
    order = torch.arange(num_rows(batch))
    latents = draw_latents(pair, batch, DRAWS)
    scores: dict[str, list[Tensor]] = {name: [] for name in latents}
    for shift in range(num):
        order[:num] = torch.arange(num).roll(-shift)
        with poutine.condition(data={name: z[:, order] for name, z in latents.items()}):
            trace = run(pair, "guide", batch, DRAWS)
        total = torch.zeros(DRAWS, num, dtype=torch.float64)
        terms = log_prob_terms(trace)
        for name in sample_sites(trace):
            total = total + terms[name].expand(DRAWS, -1)[:, :num].double().cpu().roll(shift, 1)
            scores[name].append(total)
    result, before = {}, torch.zeros(())
    for name, along in scores.items():
        log_q = torch.stack(along)  # of z_1 ... z_l, under each data point; the first is its own
        information = (log_q[0] - (log_q.logsumexp(0) - math.log(num))).mean()
        result[name] = (information - before).item()
        before = information
    return result
