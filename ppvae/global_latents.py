"""Latents that all data points share, at given values: then each data point has a weight of its own."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, call, num_rows
from ppvae.refusals import ContractError
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

    def __init__(self, num_rows: int):
        super().__init__()
        self._num_rows = num_rows

    def _pyro_sample(self, msg: Message) -> None:
        if not (msg["is_observed"] or msg["done"] or site_is_subsample(msg)) and not _is_local(msg, self._num_rows):
            msg["value"], msg["done"] = cast(Any, msg["fn"]).mean, True


def guides_values(guide: Callable, batch: Batch, how: str) -> dict[str, Tensor]:
    """Values for the guide's latents outside the data plate: its "draw", or its "mean".

    A latent that AutoNormal makes of an unconstrained draw is taken at that draw's mean, which gives its median.
    """
    if how not in ("draw", "mean"):
        raise ValueError(
            f"condition: found {how!r}, expected a dict of values by site, or 'draw' or 'mean', the guide's"
        )
    at_means = _AtMeans(num_rows(batch)) if how == "mean" else nullcontext()
    with torch.no_grad(), poutine.trace() as tracer, at_means:
        call(guide, batch)
    return {
        name: site["value"].detach()
        for name, site in sample_sites(tracer.trace).items()
        if not _is_local(site, num_rows(batch)) and not name.endswith(UNCONSTRAINED)
    }


def _is_local(site: Any, num_rows: int) -> bool:
    return any(frame.vectorized and frame.size in (num_rows, -1) for frame in site["cond_indep_stack"])
