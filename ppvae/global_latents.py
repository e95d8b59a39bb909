"""Latents that all data points share, at given values: then each data point has a weight of its own."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, call, num_rows
from ppvae.refusals import ContractError, family
from ppvae.sites import sample_sites

UNCONSTRAINED = "_unconstrained"
"""What AutoNormal appends to a latent's name for the draw that it makes the latent of."""


class AtValues(Messenger):
    """Gives latents their values and hides them: they have no term in log p or log q, and no handler outside sees them.

    Args:
        values: by site.

    Attributes:
        met: the sites that were given a value.
    """

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self._values = values
        self.met: set[str] = set()

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name in self._values:
            self.met.add(name)
            msg["value"], msg["done"], msg["stop"] = self._value(name, cast(Any, msg["fn"])), True, True
        elif name.removesuffix(UNCONSTRAINED) in self._values:
            msg["stop"] = True

    def _value(self, name: str, fn: Any) -> Tensor:
        value, expected = self._values[name], list(fn.shape())
        if list(value.shape) != expected:
            raise ContractError(
                f"condition['{name}']: found shape {list(value.shape)}, expected the site's, {expected}; reshape it"
            )
        return value


class _AtMeans(Messenger):
    """Gives latents outside the data plate the means of their distributions."""

    def __init__(self, is_local: Callable[[Any], bool]):
        super().__init__()
        self._is_local = is_local

    def _pyro_sample(self, msg: Message) -> None:
        if not (msg["is_observed"] or msg["done"] or site_is_subsample(msg)) and not self._is_local(msg):
            msg["value"], msg["done"] = _mean(str(msg["name"]), msg["fn"]), True


def _mean(name: str, fn: Any) -> Tensor:
    try:
        mean = fn.mean
    except NotImplementedError:
        mean = None
    if mean is None or not mean.isfinite().all():
        raise ContractError(
            f"condition: found 'mean', but guide site '{name}' of {family(fn)}, which has no finite mean, expected one "
            f"that has; pass condition='draw', or values, condition={{'{name}': value, ...}}"
        )
    return mean


def guides_values(model: Callable[[Trace], Trace], guide: Callable, batch: Batch, how: str) -> dict[str, Tensor]:
    """Values for the guide's latents outside the data plate: its "draw", or its "mean".

    A latent that AutoNormal makes of an unconstrained draw is taken at that draw's mean, which gives its median.

    Args:
        model: its trace on the batch, by that of the guide.
        guide: the guide.
        batch: the example.
        how: "draw" or "mean".
    """
    if how not in ("draw", "mean"):
        raise ValueError(
            f"condition: found {how!r}, expected a dict of values by site, or 'draw' or 'mean', the guide's"
        )
    with torch.no_grad():
        guides = _trace(guide, batch)
        elsewhere = _plates(sample_sites(models := model(guides))) - _plates(sample_sites(models, observed=True))

        def is_local(site: Any) -> bool:
            """In a plate of the batch's size, which is none of components, or the like, that happen to be as many."""
            frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name not in elsewhere]
            return any(frame.size in (num_rows(batch), -1) for frame in frames)

        if how == "mean":
            with _AtMeans(is_local):
                guides = _trace(guide, batch)
    return {
        name: site["value"].detach()
        for name, site in sample_sites(guides).items()
        if not is_local(site) and not name.endswith(UNCONSTRAINED)
    }


def _trace(function: Callable, batch: Batch) -> Trace:
    with poutine.trace() as tracer:
        call(function, batch)
    return tracer.trace


def _plates(sites: Mapping[str, Any]) -> set[str]:
    return {frame.name for site in sites.values() for frame in site["cond_indep_stack"] if frame.vectorized}
