"""Data simulated from a pair's model, with the latents that made them: an exact draw from their posterior."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, call, map_batch, num_rows, tensors
from ppvae.internals import is_deterministic
from ppvae.model_and_guide import ModelAndGuide
from ppvae.own_rows import refuse_simulated_rows
from ppvae.refusals import ContractError, family
from ppvae.sites import sample_sites
from ppvae.threads import exclusive


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
        ppvae.ContractError: the model observes something that it computed from the batch, or `pyro.factor`, so that
            simulated data have no place in a batch (the site is named); or the guide has parameters for its own rows
            alone.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> x, latents = simulate(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> x.shape, latents["z"].shape
        (torch.Size([3, 5]), torch.Size([3, 2]))
    """
    refuse_simulated_rows(pair)
    batch = map_batch(lambda t: t.clone(memory_format=torch.contiguous_format), batch)
    with poutine.trace() as tracer, _Overwriting(batch, given):
        call(pair.model, batch)
    sites = sample_sites(tracer.trace, observed=False)
    shape = {name: (num_rows(batch), *site["fn"].event_shape) for name, site in sites.items()}
    return batch, {name: site["value"].expand(shape[name]) for name, site in sites.items()}


class _Overwriting(Messenger):
    """Draws what is observed, and writes it over the data, through whatever view of them the model observes."""

    def __init__(self, batch: Batch, given: Mapping[str, Tensor]):
        super().__init__()
        self._given = given
        self._held = {t.untyped_storage().data_ptr() for t in tensors(batch).values()}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._given:
            msg["value"], msg["done"] = self._given[str(msg["name"])], True
            return
        if not msg["is_observed"] or site_is_subsample(msg) or is_deterministic(msg):
            return
        fn, value = cast(TorchDistribution, msg["fn"]), cast(Tensor, msg["value"])
        if value.untyped_storage().data_ptr() not in self._held or family(fn) == "Unit":
            raise ContractError(
                f"model site '{msg['name']}': found observed data that the model computes from the batch, expected a "
                "part of the batch itself (a tensor, or a view of one), so that simulated data can take its place; "
                "prepare the data before they are passed to the model"
            )
        value.copy_(fn.sample())
