"""A model without its data: what it observes is drawn."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger

from ppvae.batches import Batch, tensors
from ppvae.internals import is_deterministic
from ppvae.sites import is_factor


class Unconditioned(UnconditionMessenger):
    """A handler under which a model draws its data; sites where it does have `infer["was_observed"]`.

    Pyro's `uncondition` would draw what `pyro.deterministic` and `pyro.factor` state, too.
    """

    def _pyro_sample(self, msg: Message) -> None:
        if not (is_deterministic(msg) or is_factor(msg)):
            super()._pyro_sample(msg)


def only_read(sites: Mapping[str, Any], batch: Batch) -> list[str]:
    """The rows of a batch, by name, that a model reads and does not observe. Its sites are those under `Unconditioned`.

    None where the model observes what it computes from the batch, as then it cannot be told.
    """
    observed = {site["infer"]["obs"].untyped_storage().data_ptr() for site in sites.values() if "obs" in site["infer"]}
    named = tensors(batch)
    read = [f"data[{name}]" for name, t in named.items() if t.untyped_storage().data_ptr() not in observed]
    return read if len(read) < len(named) else []
