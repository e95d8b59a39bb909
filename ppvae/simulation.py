"""Data simulated from a pair's model, with the latents that made them: an exact draw from their posterior."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.early_reads import refuse_early_reads
from ppvae.model_and_guide import ModelAndGuide
from ppvae.own_rows import refuse_simulated_rows
from ppvae.refusals import ContractError
from ppvae.sites import has_own_term, sample_sites
from ppvae.threads import exclusive
from ppvae.unconditioned import draw_jointly


@exclusive
@torch.no_grad()
def simulate(
    pair: ModelAndGuide, batch: Batch, given: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[Batch, dict[str, Tensor]]:
    """`(x, z) ~ p(x, z)`: a batch with simulated data in the place of the observed, and its latents.

    What the model only reads (lengths, labels, covariates) stays as it is in `batch`.

    Args:
        pair: whose model is drawn from.
        batch: B data points, left untouched.
        given: latents that are not drawn, by site, `[B, *event]`.

    Returns:
        A batch like the given one, and the latents by site, `[B, *event]`.

    Raises:
        ppvae.ContractError: the model observes something that it computed from the batch, so that simulated data have
            no place in a batch, or has a term without draws, such as `pyro.factor` (the site is named); or the guide
            has parameters for its own rows alone.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> x, latents = simulate(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> x.shape, latents["z"].shape
        (torch.Size([3, 5]), torch.Size([3, 2]))
    """
    refuse_early_reads(pair, batch, given)
    return simulate_unlooked(pair, batch, given)


@exclusive
@torch.no_grad()
def simulate_unlooked(
    pair: ModelAndGuide, batch: Batch, given: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[Batch, dict[str, Tensor]]:
    """`simulate` at each step of training: whoever calls it has looked for data that are read early, once."""
    refuse_simulated_rows(pair)
    drawn = draw_jointly(pair, batch, given)
    sites = sample_sites(drawn.trace)
    if without_draws := [name for name, site in sites.items() if has_own_term(site)]:
        raise ContractError(
            f"model site '{without_draws[0]}': found a term of the density that has no draws (pyro.factor, or what "
            "poutine.reparam leaves), expected distributions alone, so that data can be simulated; write it as a "
            "distribution, or choose a method that simulates none"
        )
    if drawn.without_place:
        raise ContractError(
            f"model site '{drawn.without_place[0]}': found observed data that the model computes from the batch, "
            "expected a part of the batch itself (a tensor, or a view of one), so that simulated data can take its "
            "place; prepare the data before they are passed to the model"
        )
    return drawn.batch, drawn.values(observed=False)
