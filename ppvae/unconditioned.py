"""A model without its data: what it observes is drawn."""

from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger

from ppvae.internals import is_deterministic
from ppvae.sites import is_factor


class Unconditioned(UnconditionMessenger):
    """A handler under which a model draws its data; sites where it does have `infer["was_observed"]`.

    Pyro's `uncondition` would draw what `pyro.deterministic` and `pyro.factor` state, too.
    """

    def _pyro_sample(self, msg: Message) -> None:
        if not (is_deterministic(msg) or is_factor(msg)):
            super()._pyro_sample(msg)
