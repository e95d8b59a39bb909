"""Draws from a model alone, as precise as its pair: a prior of `torch.zeros(8)` draws in torch's default type."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import nn

from ppvae.conversion import floating_type
from ppvae.internals import enumeration_dim


class PreciseDraws(Messenger):
    """Gives draws the type of a pair's parameters, where they have fewer digits; entered before what traces them."""

    def __init__(self, pair: Any):
        super().__init__()
        self._type = floating_type(pair) if isinstance(pair, nn.Module) else None

    def _pyro_post_sample(self, msg: Message) -> None:
        if self._type is None or msg["is_observed"] or site_is_subsample(msg) or enumeration_dim(msg) is not None:
            return
        value: Any = msg["value"]
        if value.is_floating_point() and value.dtype.itemsize < self._type.itemsize:
            msg["value"] = value.to(self._type)
