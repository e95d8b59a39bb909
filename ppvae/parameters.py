"""What a pair learns is its own: a `pyro.param` that no parameter of the pair stands behind is refused.

So is a parameter or a module that a method of the pair would hide; and in training an `nn.Parameter` of a module that
is none of the pair's, and a tensor that requires gradients and is no parameter, wherever it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ppvae.internals import tree_leaves
from ppvae.refusals import ContractError

GRAD_FN: Any = Tensor.grad_fn
"""The property that is asked of a parameter first when it becomes a module's."""


def is_within(name: str, prefix: str) -> bool:
    """Whether a parameter has this name or is in the module of this name; the pair's own name is empty."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


class OwnParameters(TorchFunctionMode):
    """While a pair that is to be trained runs, what it computes with and is learned has to be its own.

    Otherwise it would keep its first value, as an optimizer is given nothing else. Modules that the functions of
    `Pair.of` use without `pyro.module` are not learned by Pyro either: they are let pass. So are modules that are made
    while it runs, as Pyro makes some for its transforms.

    Args:
        pair: the model and guide.
    """

    def __init__(self, pair: nn.Module):
        super().__init__()
        own = list(pair.modules())
        for module in own:
            _refuse_plain(module)
        unlearned = [
            used for module in own for used in (*getattr(module, "unlearned", ()), *getattr(module, "stand_ins", ()))
        ]
        self._pair = pair
        self._known: dict[int, Tensor] = {id(p): p for module in [pair, *unlearned] for p in module.parameters()}

    def __torch_function__(
        self, function: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for value in self._unknown((args, kwargs)):
            if function == GRAD_FN.__get__ and isinstance(value, nn.Parameter):
                self._known[id(value)] = value
                continue
            shape = list(value.shape)
            what = f"an nn.Parameter {shape}" if isinstance(value, nn.Parameter) else f"a tensor {shape} with gradients"
            remedy = "make it, or its module, an attribute of the pair in __init__, keep several modules in an "
            remedy += "nn.ModuleList rather than a list"
            if hasattr(self._pair, "unlearned"):
                remedy = "name it in model or guide, `w = pyro.param('w', w)`, or its module, by pyro.module"
            raise ContractError(
                f"pair: found {what} that is none of {type(self._pair).__name__}'s parameters, "
                f"expected all that is learned to be one, as otherwise it keeps its first value; {remedy}, and freeze "
                "what is not learned, by `requires_grad_(False)`"
            )
        result = function(*args, **(kwargs or {}))
        self._known |= {id(made): made for made in self._unknown((args, result))}  # such as by `requires_grad_`
        return result

    def _unknown(self, values: Any) -> Iterator[Tensor]:
        """Those tensors of some that are to be learned, and no parameters of the pair.

        Views that are made without gradients, and Pyro's tensors that know where they come from, say that they are
        leaves that require them.
        """
        for value in tree_leaves(values):
            is_one = (type(value) is Tensor and not value._is_view()) or isinstance(value, nn.Parameter)
            if is_one and value.requires_grad and value.is_leaf and id(value) not in self._known:
                yield value


def _refuse_plain(module: nn.Module) -> None:
    for name, held in vars(module).items():
        if name.startswith("_") and not isinstance(held, Tensor):  # torch keeps parameters in dicts
            continue
        for value in _tensors_in(held):
            is_parameter = isinstance(value, nn.Parameter)  # of which others are met where they are used
            if not is_parameter and value.requires_grad and value.is_leaf:
                made = "nn.Parameter" if value is held else "nn.ParameterList"
                raise ContractError(
                    f"{name}: found a tensor {list(value.shape)} of {type(module).__name__} that requires gradients "
                    f"and is no parameter, expected all that is learned to be one; write self.{name} = {made}(...)"
                )


def _tensors_in(held: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples and dicts, however deep these are, and if they hold themselves."""
    todo: list[Any] = [held]
    seen: set[int] = set()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value


def leaf_behind(value: Any) -> Tensor:
    """The leaf behind the value of a `pyro.param`."""
    if hasattr(value, "_pyro_unconstrained_param"):  # of which a plate has selected some rows
        return value._pyro_unconstrained_param
    return value.unconstrained() if hasattr(value, "unconstrained") else value


class OwnStatements(Messenger):
    """Refuses a `pyro.param` of another's, by name, before it is stored.

    A `pyro.param` in a method of a `Pair` lives in Pyro's store alone, and keeps its first value for ever.

    Args:
        role: "model" or "guide".
        pair: whose parameters are its own.
    """

    def __init__(self, role: str, pair: Any):
        super().__init__()
        self._role, self._pair = role, pair
        self._own = {id(p) for p in pair.parameters()} if isinstance(pair, nn.Module) else set()

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None:  # given by a handler, as `poutine.substitute`
            return
        name, *initial = msg["args"]
        store: Any = pyro.get_param_store()
        stored: Any = dict(store.items()).get(name)
        if stored is not None:
            self._refuse_others(name, stored.unconstrained())
        elif initial:
            self._refuse_others(name, initial[0])

    def _pyro_post_param(self, msg: Any) -> None:
        """Of a value that no store has and no statement gives: a module's alone, by Pyro's module_local_params."""
        name, *initial = msg["args"]
        leaf = leaf_behind(msg["value"])
        if not initial and name not in pyro.get_param_store() and leaf.requires_grad:
            self._refuse_others(name, leaf)

    def _refuse_others(self, name: str, leaf: Any) -> None:
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
