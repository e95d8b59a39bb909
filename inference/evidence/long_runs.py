"""Long HMC runs at the posterior from several kinds of starts, and whether these have forgotten where they started."""

from typing import NamedTuple

import arviz as az
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae.inference.evidence import hmc
from ppvae.inference.evidence.annealed_importance import RATE, Sampler
from ppvae.inference.evidence.hmc import State

KINDS = 3
"""Of starts: last states of AIS, draws from the guide, draws from the prior."""

KEPT = 100
"""Draws of each chain, spread over its run, by which its convergence is judged."""


class LongRun(NamedTuple):
    """Where the chains of a long run end, and how well they agree."""

    state: State
    """Of K chains, approximate draws from the posterior."""
    r_hat: Tensor
    """The largest of all entries of u, and of log p(x, z), `[B]`."""
    ess: Tensor
    """The smallest of these, of the draws that were kept, `[B]`."""


def long_run(sampler: Sampler, annealed: State, log_weight: Tensor) -> LongRun:
    """HMC at the posterior: as many transitions as AIS has temperatures to get there, and as many that are judged.

    A third of the chains start from last states of AIS, drawn by their weights; a third from the guide, and a third
    from the prior. Each chain finds a step size of its own on its way there, which is then frozen.

    Args:
        sampler: after its warm-up.
        annealed: the last states of AIS.
        log_weight: their log weights, `[K, B]`.
    """
    num = sampler.settings.num_temperatures
    state = sampler.at(_starts(sampler, annealed, log_weight))
    log_size = torch.zeros_like(state.log_joint)
    total = torch.zeros_like(log_size)
    for t in range(num):
        state, info = sampler.at_posterior(state, log_size.exp())
        log_size = hmc.adapt(log_size, info.acceptance, RATE)
        if t >= num // 2:
            total += log_size
    size = (total / (num - num // 2)).exp()
    kept = set(np.linspace(0, num - 1, KEPT).astype(int).tolist())
    draws = []
    for t in range(num):
        state, _ = sampler.at_posterior(state, size)
        if t in kept:
            draws.append(torch.cat([state.position, state.log_joint[..., None]], -1))
    r_hat, ess = _agreement(torch.stack(draws))
    return LongRun(state, r_hat.to(size.device), ess.to(size.device))


def _starts(sampler: Sampler, annealed: State, log_weight: Tensor) -> Tensor:
    """u, `[K, B, D]`."""
    num = sampler.settings.num_chains
    other = num // KINDS
    chosen = log_weight.softmax(0).T.multinomial(num - 2 * other, replacement=True).T
    resampled = annealed.position.gather(0, chosen[..., None].expand(-1, -1, annealed.position.shape[-1]))
    return torch.cat([resampled, *sampler.guide_and_prior(other)])


def _agreement(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The largest R-hat and the smallest bulk ESS of draws `[draw, K, B, D]`: `[B]` each; NaN where one is."""
    values = draws.double().cpu().numpy()
    found = xr.Dataset({"u": (("draw", "chain", "data", "dim"), values)}).transpose("chain", "draw", ...)
    r_hat, ess = az.rhat(found)["u"].values, az.ess(found, method="bulk")["u"].values
    return torch.as_tensor(r_hat.max(-1)), torch.as_tensor(ess.min(-1))
