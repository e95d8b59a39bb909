"""A model without its data: what it observes is drawn."""

from collections.abc import Callable
from typing import Any

from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger

from ppvae.internals import is_deterministic
from ppvae.sites import is_factor


class _Unconditioned(UnconditionMessenger):
    """Pyro's `uncondition`, which would draw what `pyro.deterministic` and `pyro.factor` state, too."""

    def _pyro_sample(self, msg: Message) -> None:
        if not (is_deterministic(msg) or is_factor(msg)):
            super()._pyro_sample(msg)


def unconditioned(model: Callable) -> Callable[..., Any]:
    """A model that draws its data; sites where it does have `infer["was_observed"]`."""
    return _Unconditioned()(model)
