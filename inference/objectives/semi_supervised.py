"""The enumerated ELBO of data with some labels missing, and a guide that learns from those that are there."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ppvae.arguments import NonNegative, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.enumerated import EnumeratedELBO, enumerated
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.sites import presence, sample_sites, without_row_mask
from ppvae.tracing import Joint
from ppvae.weights import over_enumerated


@checked
@dataclass(frozen=True)
class SemiSupervisedELBO(EnumeratedELBO):
    """The enumerated ELBO; its gradient is that of `ELBO + weight log q(y | x)` at rows whose y is known.

    For sites that are observed in part, `pyro.sample("y", ..., obs=y, obs_mask=known)`, with a guide for the rest,
    "y_unobserved". The bound of a row whose y is known, log p(x, y), does not contain q(y | x), so it teaches the guide
    nothing about what it could have seen; without the second term, M2 finds clusters of its own. That term is no part
    of a bound, so the value stays the ELBO.

    Source: Kingma et al. 2014 (arXiv:1406.5298), equation 9, whose alpha of 0.1 N with N_l labels among N data points
    is a weight of `0.1 N / N_l`.

    Args:
        num_particles: K, draws of the continuous sites per data point.
        weight: of log q(y | x) at each row whose y is known.

    Raises:
        ValueError: a weight below zero.
        ContractError: when called, on a pair without a site that is observed in part and guided where it is not.

    Example:
        >>> from ppvae.models import M2
        >>> pair = M2.mlp(num_features=5, num_latents=2, num_classes=3)
        >>> batch = torch.ones(4, 5), torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, True, False])
        >>> value, surrogate = SemiSupervisedELBO(weight=10.0)(pair, batch)
        >>> value.shape, bool(surrogate < value.mean())
        (torch.Size([4]), True)
    """

    weight: NonNegative = 1.0

    @property
    def unbiased(self) -> EnumeratedELBO:
        """The enumerated ELBO, which has the same value."""
        return EnumeratedELBO(self.num_particles)

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{self}: the gradient of its exact value is not the surrogate's")

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        joint = enumerated(pair, batch, self.num_particles)
        value, surrogate = self.of(joint)
        return value, surrogate + self.weight * mean_over_data(log_guesses(pair, joint))


def log_guesses(pair: Pair, joint: Joint) -> Tensor:
    """`log q(y | x)` at what is known of the sites that are observed in part, `[K, B]`.

    Raises:
        ContractError: there is none.
    """
    seen, guesses = sample_sites(joint.model, observed=True), sample_sites(joint.guide)
    found = []
    for name, site in seen.items():
        guess = guesses.get(f"{name.removesuffix('_observed')}_unobserved")
        if name.endswith("_observed") and guess is not None:
            log_q = without_row_mask(guess)[0].log_prob(site["value"])
            found.append(torch.where(cast(Tensor, presence(site)), log_q, 0.0))
    if not found:
        raise ContractError(
            f"{type(pair).__name__}: found no site that is observed in part and guided where it is not, expected "
            "pyro.sample('y', ..., obs=y, obs_mask=known) in the model and 'y_unobserved' in the guide; use "
            "EnumeratedELBO() or ELBO()"
        )
    return over_enumerated(joint, torch.stack(torch.broadcast_tensors(*found)).sum(0))
