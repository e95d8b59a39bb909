"""log p(x) of sequences by particle filters, whose error grows with the square root of time, not exponentially."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, call, num_rows
from ppvae.conversion import to_pair
from ppvae.devices import gpus
from ppvae.inference.evidence.few_weights import MOST_STD_ERROR, std_error
from ppvae.inference.evidence.method import EvidenceMethod, Task
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import ContractError

NUM_FILTERS = 16
"""Independent filters, whose spread is the measure of their error."""

GUIDED_SHARE = 0.5
"""Of a guided filter's particles. The rest come from the prior, so that no weight is more than twice the likelihood,
however narrow the guide is: without them, a guide narrower than the posterior deceives the estimate and its error."""


FEW, DRAWS, CLOSE = 8, 2, 1e-3
"""Data points and draws by which steps are compared with the model, and how near they are to be: nats, or a share."""


class ParticleFilter(EvidenceMethod):
    """The log of the mean of independent particle filters' estimates of p(x), which are unbiased.

    Each filter weighs its particles at each step by `p(z_t | z_{t-1}) p(x_t | z_t) / r(z_t)`, and draws them anew, by
    their weights, where the effective sample size has fallen below half of their number. r, from which z_t is drawn, is
    the prior p(z_t | z_{t-1}), or the even mixture of prior and guide, q(z_t | z_{t-1}, x). K particles are shared
    among sixteen filters, whose spread gives the standard error. The pair declares its steps: `ppvae.steps.Steps`.

    An exact guide gains less than one might think: it looks ahead, and weights half-way do not know that.

    Source: Gordon et al. 1993; unbiased: Del Moral 2004; as a bound: Maddison et al. 2017 (arXiv:1705.09279); mixtures
    with the prior: Hesterberg 1995.

    Args:
        guided: whether the guide has a share in r.
    """

    trusted = f"the standard error is at most {MOST_STD_ERROR} nats"
    limit = f"particle filters' standard error > {MOST_STD_ERROR}"

    def __init__(self, guided: bool):
        self.guided = guided
        self.name = "particle filter" if guided else "bootstrap filter"
        source = "half from the guide and half from the prior" if guided else "from the prior"
        self.about = f"sixteen particle filters, of sequences that declare their steps; each step is drawn {source}"

    def run(self, task: Task) -> Evidence:
        def measure(batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
            size = math.ceil(num_particles / NUM_FILTERS)
            groups = sizes(NUM_FILTERS, max(1, at_once // size))
            log_z = torch.cat([estimates(task.pair, batch, num, size, self.guided) for num in groups])
            return {"estimate": log_z.logsumexp(0) - math.log(NUM_FILTERS), "log_z": log_z.T}

        def probe(batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
            return {"estimate": estimates(task.pair, batch, 1, num_particles, self.guided)[0]}

        refuse_other_steps(task.pair, task.batch)
        title = "log evidence" if task.progress else None
        found = over_data(task.pair, task.batch, task.num_particles, measure, title, probe)
        error = std_error(found.pop("log_z"))
        return self.record(task.num_particles, finite(found | {"std_error": error}))

    def reliable(self, found: Mapping[str, Tensor]) -> Tensor:
        return found["std_error"] <= MOST_STD_ERROR

    def is_candidate(self, task: Task) -> bool:
        """Where the pair declares its steps, and the guide has a share: the other filter seldom is more precise."""
        return self.guided and type(task.pair).time_steps is not Pair.time_steps


def refuse_other_steps(pair: Pair, batch: Batch) -> None:
    """Refuses steps whose product is not p(x, z), where the model's latents are one site for each step.

    Raises:
        ppvae.ContractError: they differ, by so many nats.
    """
    few = to_pair(rows_or_all(pair, batch, slice(FEW)), pair)
    steps = call(pair.time_steps, few)
    with torch.random.fork_rng(gpus(pair)):
        weights = pair.log_weights(few, DRAWS)
    latents = [weights.latents[name] for name in weights.log_p_sites if name in weights.latents]
    before, total = None, torch.zeros_like(weights.log_p)
    if len(latents) != steps.num:
        return
    for t, z in enumerate(latents):
        prior = steps.prior(t, before)
        if prior.event_shape != z.shape[2:]:  # steps may carry more than the latents, such as a state
            return
        total, before = total + prior.log_prob(z) + steps.log_likelihood(t, z), z
    if not torch.allclose(total, weights.log_p, rtol=CLOSE, atol=CLOSE):
        raise ContractError(
            f"time_steps: found factors whose log probabilities sum to {(total - weights.log_p).abs().max():.3g} nats "
            "more or less than those of the model at the same latents, expected the same sum; mask in a step what the "
            "model masks, such as steps past a sequence's length"
        )


def estimates(pair: Pair, batch: Batch, num_filters: int, size: int, guided: bool) -> Tensor:
    """Logs of independent, unbiased estimates of p(x), `[num_filters, B]`, float64.

    Args:
        pair: one that has `time_steps`.
        batch: B sequences.
        num_filters: R.
        size: particles of each filter.
        guided: whether half of them are drawn from the guide; else all are from the prior.
    """
    steps = call(pair.time_steps, batch)
    shape = (num_filters * size, num_rows(batch))
    z, log_w, log_z = None, torch.zeros(()), torch.zeros(())
    for t in range(steps.num):
        prior = steps.prior(t, z).expand(shape)
        guide = steps.guide(t, z).expand(shape) if guided else None
        z, log_ratio = drawn(prior, guide)
        gained = steps.log_likelihood(t, z) + log_ratio
        log_w = log_w + gained.double().expand(num_filters * size, -1).unflatten(0, (num_filters, size))
        if t < steps.num - 1:
            z, log_w, mean = resampled(z, log_w)
            log_z = log_z + mean
    return log_z + log_w.logsumexp(1) - math.log(size)


def drawn(prior: Any, guide: Any | None) -> tuple[Tensor, Tensor | float]:
    """z from the prior, or from the even mixture of guide and prior; and the log of the prior over what it is from."""
    from_prior = prior.sample()
    if guide is None:
        return from_prior, 0.0
    event = (1,) * len(prior.event_shape)
    chosen = torch.rand(prior.batch_shape, device=from_prior.device) < GUIDED_SHARE
    z = torch.where(chosen.reshape(*chosen.shape, *event), guide.sample(), from_prior)
    log_p, log_q = prior.log_prob(z), guide.log_prob(z)
    return z, log_p - torch.logaddexp(log_q + math.log(GUIDED_SHARE), log_p + math.log(1 - GUIDED_SHARE))


def resampled(z: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Particles drawn anew by their weights, systematically, where their effective number is below half.

    Args:
        z: `[R * n, B, *event]`, of R filters with n particles.
        log_w: `[R, n, B]`.

    Returns:
        The particles; their log weights, zero where they were drawn anew; and the log of the mean weight there, zero
        elsewhere, `[R, B]`.
    """
    size = log_w.shape[1]
    total = log_w.logsumexp(1)
    anew = (2 * total - (2 * log_w).logsumexp(1)).exp() < size / 2  # false where all weights are zero
    if not anew.any():
        return z, log_w, torch.zeros_like(total)
    reached = log_w.movedim(1, -1).softmax(-1).cumsum(-1).nan_to_num()
    steps = torch.arange(size, dtype=log_w.dtype, device=log_w.device)
    places = (steps + torch.rand_like(total).unsqueeze(-1)) / size
    drawn = torch.searchsorted(reached.contiguous(), places).clamp(max=size - 1)
    ancestors = torch.where(anew.unsqueeze(-1), drawn, steps.long()).movedim(-1, 1)
    event = (1,) * (z.dim() - 2)
    index = ancestors.reshape(*ancestors.shape, *event).expand(*ancestors.shape, *z.shape[2:])
    z = z.unflatten(0, log_w.shape[:2]).gather(1, index).flatten(0, 1)
    kept = torch.where(anew.unsqueeze(1), 0.0, log_w)
    return z, kept, torch.where(anew, total - math.log(size), 0.0)
