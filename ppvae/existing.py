"""Pairs from existing Pyro code: functions with `pyro.module` and `pyro.param`, unchanged."""

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import nn

from ppvae.batches import as_batch, call
from ppvae.pair import Pair


class ExistingPair(Pair):
    """A pair from a Pyro model and guide written elsewhere; made by `ppvae.Pair.of(model, guide, example=batch)`.

    Both are run once on the example. What they announce by `pyro.module` and `pyro.param` becomes the pair's own:
    modules are shared with the caller, a constrained `pyro.param` becomes an unconstrained leaf. Values already in the
    global parameter store (from earlier training) are taken over; the store itself is left as it was found.

    Args:
        model: p(x, z), a Pyro function or a method of a module.
        guide: q(z | x), likewise.
        example: a batch as both take it: a tensor, a tuple (positional arguments) or a dict (keyword arguments).

    Raises:
        ppvae.ContractError: the functions break the contract of `ppvae.Pair`.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, scale), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> pair = Pair.of(model, guide, example=torch.randn(4))
        >>> [name for name, _ in pair.named_parameters()], list(pyro.get_param_store())
        (['scale'], [])
    """

    def __init__(self, model: Callable, guide: Callable, example: Any):
        super().__init__()
        self._model, self._guide = (model,), (guide,)  # in tuples, lest modules among them be registered unasked
        batch = as_batch(example)
        store = pyro.get_param_store()
        with store.scope(store.get_state()), torch.random.fork_rng(devices=[]), torch.no_grad():
            traces = [poutine.trace(lambda f=f: call(f, batch)).get_trace() for f in (guide, model)]
            state = store.get_state()
        announced = {
            name: site["args"][1] if "$$$" in name else state["params"][name]  # a module's own, or the store's leaf
            for trace in traces
            for name, site in trace.nodes.items()
            if site["type"] == "param"
        }
        learnt = {id(value) for value in announced.values()}
        for module in {id(m): m for function in (model, guide) for m in _modules_of(function)}.values():
            if not learnt.isdisjoint(id(parameter) for parameter in module.parameters()):
                self.add_module(f"module{len(self._modules)}", module)
        owned = {id(parameter) for parameter in self.parameters()}
        self._leaves: dict[str, str] = {}
        self._constraints: dict[str, Any] = {}
        for name, value in announced.items():
            if id(value) not in owned:
                attribute = name.replace("$$$", "/").replace(".", "/")
                leaf = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())
                self.register_parameter(attribute, leaf)
                self._leaves[name] = attribute
                self._constraints[name] = state["constraints"][name]
        self.check(batch)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._model[0], args, kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._guide[0], args, kwargs)

    def _run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Calls `function` with a parameter store that holds this pair's leaves and nothing else."""
        params = {name: self.get_parameter(attribute) for name, attribute in self._leaves.items()}
        with pyro.get_param_store().scope({"params": params, "constraints": self._constraints.copy()}):
            return function(*args, **kwargs)


def _modules_of(function: Callable) -> list[nn.Module]:
    """The modules that a function is, belongs to, or refers to by closure or global name."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        return [owner]
    if not inspect.isfunction(function):
        return []
    variables = inspect.getclosurevars(function)
    values = [*variables.nonlocals.values(), *variables.globals.values()]
    return [value for value in values if isinstance(value, nn.Module)]
