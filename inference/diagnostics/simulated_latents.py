"""The model's own data, and the latents that made them, as vectors on the reals: what draws of a guide are held
against."""

from typing import Annotated

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.devices import gpus
from ppvae.inference.runtime.chunks import sizes
from ppvae.inference.runtime.records import EvidenceUndefined
from ppvae.kinds import is_discrete
from ppvae.latent_view import LatentView
from ppvae.own_rows import refuse_simulated_rows
from ppvae.pair import Pair
from ppvae.refusals import ContractError, family
from ppvae.rules import Whole
from ppvae.simulation import simulate
from ppvae.sites import sample_sites
from ppvae.supports import refuse_unlike, refuse_unlike_support
from ppvae.tracing import trace_pair

Simulations = Annotated[
    int, Whole(at_least=10, said="a whole number of at least 10, to tell a guide that is wrong from one that is not")
]
"""How many."""


def refuse_undefined(pair: Pair) -> None:
    """Refuses a pair that declares that it has no density."""
    if pair.evidence_undefined:
        raise EvidenceUndefined(f"{type(pair).__name__} cannot be calibrated: {pair.evidence_undefined}")


def refuse_not_numbers(pair: Pair, what: str, values: Tensor) -> None:
    """Refuses a pair some of whose values on simulated data are NaN."""
    if values.isnan().any():
        raise ValueError(
            f"{type(pair).__name__}: found {what} that is not a number on data drawn from the model, expected numbers; "
            "is a parameter of the model or the guide NaN, or a scale zero or infinite?"
        )


def refuse_without_latents(pair: Pair, num_latents: int) -> None:
    """Refuses a guide that draws nothing."""
    if not num_latents:
        raise ContractError(f"{type(pair).__name__}.guide: found no latent site, expected one to calibrate")


def continuous_view(pair: Pair, batch: Batch) -> LatentView:
    """The latent view of a pair whose latents in the guide are all continuous, with the model's support.

    Args:
        pair: the model and guide.
        batch: data points like those to come.

    Raises:
        ppvae.ContractError: the guide has no latents, a discrete one, one without a density, one of another support
            than the model's, or parameters for its own rows alone.
    """
    refuse_simulated_rows(pair)
    with torch.random.fork_rng(gpus(pair)):
        joint = trace_pair(pair, batch, 1)
        refuse_unlike(joint)
        sites = sample_sites(joint.guide)
        refuse_without_latents(pair, len(sites))
        for name, site in sites.items():
            if is_discrete(site["fn"]):
                raise ContractError(
                    f"guide site '{name}': found {family(site['fn'])}, which is discrete, expected continuous latents "
                    "alone, between which there are distances; use ppvae.calibration, whose ranks need none"
                )
        refuse_unlike_support(
            pair,
            batch,
            joint,
            "as the latents of one have no unconstrained coordinates in the other; give the guide the model's "
            "support, or use ppvae.calibration",
        )
    return LatentView(pair, batch)


def simulated(pair: Pair, view: LatentView, batch: Batch) -> tuple[Batch, Tensor]:
    """`(x, z) ~ p(x, z)`: a batch with new data in the place of its own, and its latents, `[B, D]`, unconstrained.

    Of a latent that is masked, and so not there, the entries are noise, as they are in draws of the guide.
    """
    x, latents = simulate(pair, batch)
    given = {name: latents[name][None] for name in view.sites}
    return x, view.unconstrain(pair, x, given, renewed=True)[0]


def guided(pair: Pair, view: LatentView, batch: Batch, num_samples: int, at_once: int) -> Tensor:
    """Draws of the guide, `[L, B, D]`, unconstrained, so many at once."""
    return torch.cat([view.draw(pair, batch, size) for size in sizes(num_samples, at_once)])


def spread(draws: Tensor) -> Tensor:
    """Standard deviations over the first dimension, none of them zero."""
    return draws.std(0, correction=0).clamp(min=torch.finfo(draws.dtype).tiny)
