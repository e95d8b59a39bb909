"""What each latent site is used for: its KL, what it says of the data, and how many of its dimensions are active."""

import math
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
from ppvae.inference.chunks import over_data, sizes, to_pair
from ppvae.inference.records import Measurement
from ppvae.pair import Pair
from ppvae.tracing import log_prob_terms, run, sample_sites

ACTIVE_VARIANCE = 0.01
COLLAPSED_KL = 0.05
"""Nats of a whole site below which it is said to have collapsed."""

MOST_POINTS, DRAWS = 200, 10
"""Of which mutual information is estimated: data points, and draws for each."""


@dataclass(frozen=True)
class LatentUsage:
    """How a latent site is used.

    Attributes:
        kl: `E_q[log q(z_l | .) - log p(z_l | .)]` per data point; the sum over sites and data points is what the ELBO
            pays for the latents.
        mutual_information: of the site and the data index, given the sites before it in the guide, in nats, under the
            guide. `E KL(q(z | x) || p(z)) = mutual information + KL(q(z) || p(z))`, for all sites together.
        most_information: the log of the number of data points, which that estimate cannot exceed; near it the truth may
            be more.
        active_units: dimensions whose posterior mean has a variance over the data of more than 0.01 (Burda et al. 2016,
            arXiv:1509.00519).
        num_units: dimensions.
    """

    kl: Measurement
    mutual_information: float
    most_information: float
    active_units: int
    num_units: int

    @property
    def collapsed(self) -> bool:
        """Whether the site carries next to nothing: its KL is below 0.05 nats."""
        return self.kl.mean().estimate < COLLAPSED_KL


def latent_usage(pair: Pair, batch: Batch, num_samples: int, progress: bool) -> dict[str, LatentUsage]:
    """Usage of each of the guide's sites that no exact summation ties to others, by name."""

    def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
        terms: dict[str, list[Tensor]] = {}
        sums: dict[str, Tensor] = {}  # of z and its square
        for size in sizes(num_draws, at_once):
            weights = pair.log_weights(points, size)
            for name, log_q in weights.log_q_sites.items():
                if name in weights.log_p_sites:
                    terms.setdefault(name, []).append((log_q - weights.log_p_sites[name]).double())
                    z = weights.latents[name].double()
                    z = z.reshape(*z.shape[:2], -1)
                    sums[name] = sums.get(name, 0) + torch.stack([z, z.square()]).sum(1)
        found: dict[str, Tensor] = {}
        for name, pieces in terms.items():
            kl = torch.cat(pieces)
            mean, square = sums[name] / num_draws
            found |= {f"{name}/kl": kl.mean(0), f"{name}/error": (kl.var(0, correction=0) / (num_draws - 1)).sqrt()}
            found |= {f"{name}/z": mean, f"{name}/noise": (square - mean.square()) / (num_draws - 1)}
        return found

    found = over_data(pair, batch, num_samples, measure, "latents" if progress else None)
    names = [key.removesuffix("/kl") for key in found if key.endswith("/kl")]
    most = min(num_rows(batch), MOST_POINTS)
    information = _mutual_information(pair, to_pair(rows(batch, slice(most)), pair))
    return {
        name: LatentUsage(
            kl=Measurement(found[f"{name}/kl"], found[f"{name}/error"], num_samples, f"kl of {name}"),
            mutual_information=information[name],
            most_information=math.log(most),
            active_units=_active_units(found[f"{name}/z"], found[f"{name}/noise"]),
            num_units=found[f"{name}/z"].shape[1],
        )
        for name in names
    }


def _active_units(means: Tensor, noise: Tensor) -> int:
    """Of estimated posterior means, `[N, D]`, each with the variance `noise`, which is no part of theirs."""
    if len(means) < 2:
        return 0
    return int((means.var(0) - noise.mean(0) > ACTIVE_VARIANCE).sum())


def _mutual_information(pair: Pair, batch: Batch) -> dict[str, float]:
    """`E[log q(z_l | z_<l, x) - log q(z_l | z_<l)]`, with the latter averaged over the guide's posteriors of z_<l.

    Each data point's draws are scored under the guide of every other: the batch is rolled along.
    """
    num = num_rows(batch)
    latents = pair.latents(batch, DRAWS)
    scores: dict[str, list[Tensor]] = {name: [] for name in latents}
    for shift in range(num):
        other = rows(batch, torch.arange(num).roll(shift))
        trace = run(poutine.condition(pair.guide, data=latents), other, DRAWS)
        total = torch.zeros(DRAWS, num, dtype=torch.float64)
        terms = log_prob_terms(trace)
        for name in sample_sites(trace):
            total = total + terms[name].double().cpu()
            scores[name].append(total)
    result, before = {}, torch.zeros(())
    for name, along in scores.items():
        log_q = torch.stack(along)  # of z_1 ... z_l, under each data point; the first is its own
        information = (log_q[0] - (log_q.logsumexp(0) - math.log(num))).mean()
        result[name] = (information - before).item()
        before = information
    return result
