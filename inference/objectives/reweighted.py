"""Reweighted wake-sleep: model and guide each by their own importance-weighted gradient, z fixed."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pyro import poutine
from torch import Tensor

from ppvae.arguments import checked
from ppvae.batches import Batch, call, num_rows, tensors
from ppvae.early_reads import refuse_early_reads
from ppvae.inference.objectives.gradients import Draw
from ppvae.inference.objectives.importance_weighted import IWAE, Weighting, slope
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.scales import refuse_scales
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.simulation import simulate_unlooked
from ppvae.sites import log_prob_terms


@checked
@dataclass(frozen=True)
class RWS(IWAE):
    """Reweighted wake-sleep: the model ascends IWAE(K), the guide descends KL(posterior || q).

    With `w~` the normalized weights: model, `sum_k w~_k d log p(x, z_k)`; guide, in the wake phase,
    `sum_k w~_k d log q(z_k | x)`, an estimate of `E_posterior[d log q]` biased by O(1/K); in the sleep phase,
    `d log q(z | x)` at a pair (x, z) drawn from the model for each data point: unbiased, but on the model's data
    instead of real data. z is fixed, so discrete and continuous latents are treated alike. There is no single bound
    that this ascends; the value is IWAE(K)'s.

    Source: Bornschein & Bengio 2015 (arXiv:1406.2751); Le et al. 2020 (arXiv:1805.10469).

    Args:
        num_particles: K.
        phase: the guide's, "wake" or "sleep".

    Raises:
        ContractError: when called with phase "sleep", for a model that observes something that is not an argument; by
            `fit`, for one in which a site depends on data before the statement that observes them.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> mixture = GaussianMixture(num_components=3, num_features=2, guide="amortized")
        >>> value, surrogate = RWS(num_particles=5)(mixture, torch.randn(4, 2))
        >>> surrogate.backward()
    """

    gradients: ClassVar[tuple[str, ...]] = ("score",)
    instead: ClassVar[str] = ", as z is fixed here; for another, use IWAE"

    gradient: str = "score"
    phase: Literal["wake", "sleep"] = "wake"

    @property
    def unbiased(self) -> Objective:
        return IWAE(self.num_particles)

    def draw(self, pair: Pair, batch: Batch, num_particles: int) -> Draw:
        if self.phase == "sleep":  # in which no particle is weighed against others
            draw = Draw(pair, batch, num_particles, fixed=True)
            refuse_scales(draw.joint, self)
            draw.check_deltas()
            return draw
        return super().draw(pair, batch, num_particles)

    def weigh(self, log_w: Tensor, scored: bool) -> Weighting:
        weights = slope(self.bound, log_w)
        return Weighting(weights, score=weights if self.phase == "wake" else None)

    def prepared(self, pair: Pair, batch: Batch) -> Objective:
        if self.phase == "sleep":
            refuse_early_reads(pair, batch)
        return super().prepared(pair, batch)

    def besides(self, pair: Pair, batch: Batch) -> Tensor | None:
        return mean_over_data(dreamed_log_q(pair, batch)) if self.phase == "sleep" else None


def dreamed_log_q(pair: Pair, batch: Batch) -> Tensor:
    """`log q(z | x)` at (x, z) drawn from the model, one for each row of the batch, `[B]`.

    Arguments that the model does not observe (lengths, labels, covariates) are taken from the batch.
    """
    dreamed, latents = simulate_unlooked(pair, batch)
    with poutine.trace() as tracer:
        call(poutine.condition(pair.guide, data=latents), dreamed)
    total = torch.zeros(num_rows(batch), device=next(iter(tensors(batch).values())).device)
    return sum(log_prob_terms(tracer.trace).values(), start=total)
