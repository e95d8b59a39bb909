"""Draws from a model alone, of its pair's type: a prior of `torch.zeros(8)` draws in torch's default type."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import nn

from ppvae.conversion import floating_type
from ppvae.devices import held_by
from ppvae.internals import enumeration_dim


class PreciseDraws(Messenger):
    """Gives draws the type of a pair's parameters, where they have fewer digits; entered before what traces them.

    And where they have more, if these are the default type's, and all that the pair holds is of one type, as after
    `pair.float()`: its networks take no other.
    """

    def __init__(self, pair: Any):
        super().__init__()
        self._type = floating_type(pair) if isinstance(pair, nn.Module) else None
        self._widest = 0
        if self._type is not None and all(t.dtype == self._type for t in held_by(pair) if t.is_floating_point()):
            self._widest = torch.get_default_dtype().itemsize

    def _pyro_post_sample(self, msg: Message) -> None:
        if self._type is None or msg["is_observed"] or site_is_subsample(msg) or enumeration_dim(msg) is not None:
            return
        value: Any = msg["value"]
        if not value.is_floating_point():
            return
        if value.dtype.itemsize < self._type.itemsize or self._type.itemsize < value.dtype.itemsize <= self._widest:
            msg["value"] = value.to(self._type)
