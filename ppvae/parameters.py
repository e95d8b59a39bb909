"""What a pair learns is its own: a `pyro.param` that no parameter of the pair stands behind is refused.

So is a parameter or a module that a method of the pair would hide.
"""

from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import nn

from ppvae.refusals import ContractError


def is_within(name: str, prefix: str) -> bool:
    """Whether a parameter has this name or is in the module of this name; the pair's own name is empty."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


class OwnParameters(Messenger):
    """Refuses a `pyro.param` of another's, by name, before it is stored.

    Optimizers are given the pair's parameters, `pair.parameters()`. A `pyro.param` in a method of a `Pair` lives in
    Pyro's store alone, and keeps its first value for ever.

    Args:
        role: "model" or "guide".
        pair: whose parameters are its own.
    """

    def __init__(self, role: str, pair: Any):
        super().__init__()
        self._role, self._pair = role, pair
        self._own = {id(p) for p in pair.parameters()} if isinstance(pair, nn.Module) else set()

    def _pyro_param(self, msg: Any) -> None:
        name, *initial = msg["args"]
        store: Any = pyro.get_param_store()
        stored: Any = dict(store.items()).get(name)
        leaf = next(iter(initial), None) if stored is None else stored.unconstrained()
        if id(leaf) not in self._own:
            raise ContractError(
                f"{self._role}: found pyro.param '{name}', which is no parameter of {type(self._pair).__name__}, "
                "expected all that is learned to be one, as otherwise it keeps its first value; make it an "
                "nn.Parameter in __init__, or use Pair.of(model, guide, example) with plain functions, and an example "
                "that reaches it"
            )


def refuse_hidden(cls: type, name: str, value: nn.Module | nn.Parameter) -> None:
    """PyTorch looks for modules and parameters last: one named as a method of the class is never found."""
    if hasattr(cls, name):
        kind = "parameter" if isinstance(value, nn.Parameter) else "module"
        raise ContractError(
            f"{name}: found a {kind} of this name, which {cls.__name__}.{name} would hide, expected another name, "
            f"such as self.own_{name}"
        )
