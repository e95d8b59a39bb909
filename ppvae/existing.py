"""Pairs from existing Pyro code: functions with `pyro.module` and `pyro.param`, unchanged."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppvae.auto_guides import OneSite, supports
from ppvae.batches import Batch, as_batch, entries
from ppvae.contract import of_model, run_alone
from ppvae.conversion import data_for, to_pair
from ppvae.global_latents import AtValues, guides_values
from ppvae.internals import contents_lent
from ppvae.local_parameters import LocalParameters
from ppvae.parameters import leaf_behind
from ppvae.reached_modules import modules_of
from ppvae.refusals import ContractError
from ppvae.sites import sample_sites
from ppvae.wording import shown

_DIVIDER = "$$$"  # between a module's name and its parameter's, in the names that pyro.module gives


class ExistingFunctions(nn.Module):
    """A Pyro model and guide written elsewhere, of which `ppvae.Pair.of(model, guide, example=batch)` makes a pair.

    Both are run once on the example. What they announce by `pyro.module` and `pyro.param` becomes the pair's own:
    modules, under the names given, are shared with the caller, while a copy of the pair has copies of them; a
    `pyro.param` becomes an unconstrained leaf of its own. Values already in the global parameter store (from earlier
    training) are taken over; the store itself is left as it was found (where it holds the parameters of a module, they
    are that module's own, and move with it).

    Args:
        model: p(x, z), a Pyro function or a method of a module.
        guide: q(z | x), likewise.
        example: a batch as both take it: a tensor, a tuple (positional arguments) or a dict (keyword arguments).
        condition: values for latents that all data points share, by site, at which the pair is trained and measured:
            log p(x | w), with no term for w. Or where the guide has them, its "draw" or its "mean". None: there are no
            such latents.

    Raises:
        ppvae.ContractError: the functions do not run on the example, or a site of `condition` is not among theirs.

    Example:
        >>> import pyro.distributions as dist
        >>> from ppvae import Pair
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

    def __init__(
        self, model: Callable, guide: Callable, example: Batch, condition: Mapping[str, Any] | str | None = None
    ):
        super().__init__()
        self._is_copy = False
        self._unlearned: list[nn.Module] | None = None
        self._model, self._guide = (model,), (guide,)  # in tuples, lest modules among them be registered unasked
        store = pyro.get_param_store()
        with store.scope(store.get_state()), torch.random.fork_rng(devices=[]), torch.no_grad():
            of_drawn = partial(of_model, partial(run_alone, "model", model, example))
            values = condition or {}
            if isinstance(values, str):
                values = guides_values(of_drawn, guide, example, values)
            self._own_values(values)
            at_values = AtValues(self._values())
            with at_values:
                drawn = run_alone("guide", _drawing(guide), example)
                traces = [drawn, of_drawn(drawn)]
            state = store.get_state()
        if unknown := sorted(values.keys() - at_values.met):
            sites = sorted({name for trace in traces for name in sample_sites(trace)} | at_values.met)
            raise ContractError(f"condition: found {unknown}, expected names of sites, of {sites}; check the spelling")
        modules = modules_of(guide, model, given=_arguments(example))
        announced = _announced(traces, state, modules)
        self._announced = set(announced)
        self._supports = supports(modules_of(guide), drawn)
        self._own_modules(modules, announced)
        self._own_leaves(announced, state["constraints"])

    def _own_values(self, values: Mapping[str, Any]) -> None:
        """Given values become buffers, which move with the pair."""
        self._given = {name: "given " + name.replace(".", "/") for name in values}
        for name, buffer in self._given.items():
            try:
                value = torch.as_tensor(values[name])
            except (TypeError, ValueError, RuntimeError) as error:  # which of them, depends on the kind of object
                found = f"condition[{name!r}]: found {shown(values[name])}"
                raise ContractError(f"{found}, expected a tensor or a number for the site ({error})") from error
            self.register_buffer(buffer, value.detach().clone())

    def _values(self) -> dict[str, Tensor]:
        return {name: getattr(self, buffer) for name, buffer in self._given.items()}

    def _own_modules(self, modules: list[nn.Module], announced: dict[str, Any]) -> None:
        names = {id(value): name for name, value in reversed(announced.items())}  # the first, of several
        self._places: dict[str, int] = {}  # of each own module, its place among those that the functions refer to
        for place, module in enumerate(modules):
            learned = {path: names[id(p)] for path, p in module.named_parameters() if id(p) in names}
            if learned:
                name = self._free_name(learned)
                self.add_module(name, module)
                self._places[name] = place

    def _free_name(self, learned: dict[str, str]) -> str:
        """A module's own: that which pyro.module gave it as a whole, by its parameters' paths; else a number."""
        parts = ((name, _DIVIDER + path) for path, name in learned.items())
        given = {name.removesuffix(end) if name.endswith(end) else "" for name, end in parts}
        name = given.pop().replace(".", "/") if len(given) == 1 else ""
        return name if name and not hasattr(self, name) else f"module{len(self._places)}"

    @property
    def unlearned(self) -> list[nn.Module]:
        """The modules that the functions use without announcing their parameters, or that have none, as dropout."""
        if self._unlearned is None:
            own = {id(module) for module in self.modules()}
            found = modules_of(self._guide[0], self._model[0])
            self._unlearned = [m for outer in found for m in outer.modules() if id(m) not in own]
        return self._unlearned

    def _own_leaves(self, announced: dict[str, Any], constraints: dict[str, Any]) -> None:
        owned = {id(parameter) for parameter in self.parameters()}
        self._leaves: dict[str, str] = {}
        self._constraints: dict[str, Any] = {}
        for name, value in announced.items():
            if id(value) not in owned:
                attribute = name.replace(_DIVIDER, "/").replace(".", "/")
                while hasattr(self, attribute):  # "scale" is free, "model" and "half" are not
                    attribute += "_"
                is_modules = isinstance(value, nn.Parameter) and _DIVIDER in name
                self.register_parameter(attribute, value if is_modules else nn.Parameter(value.detach().clone()))
                self._leaves[name] = attribute
                self._constraints[name] = constraints[name]

    def model(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._model[0], args, kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._run(_drawing(self._guide[0]), args, kwargs)
        except Exception:
            for module in modules_of(self._guide[0]):
                if isinstance(module, EasyGuide):
                    module.plates.clear()  # of the batch that failed, which it keeps for the next
            raise

    def _run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Calls `function` with a parameter store that holds this pair's leaves and nothing else."""
        params = {name: getattr(self, attribute) for name, attribute in self._leaves.items()}
        state: Any = {"params": params, "constraints": self._constraints.copy()}
        store = pyro.get_param_store()
        with store.scope(state), self._own_modules_in_place(kwargs or args), ExitStack() as handlers:
            for handler in self._handlers():
                handlers.enter_context(handler)
            result = function(*args, **kwargs)
            met = dict(store.named_parameters())
        if unknown := met.keys() - self._announced:
            owned = {id(parameter) for parameter in self.parameters()}
            if late := sorted(name for name in unknown if id(met[name]) not in owned):
                raise ContractError(
                    f"pyro.param {late}: found first now, expected on the example already, as otherwise never learned; "
                    "give Pair.of an example that reaches them"
                )
        return result

    def _handlers(self) -> Iterator[Messenger]:
        """Those that the functions have a use for, as each costs time at every site."""
        if self._given:
            yield AtValues(self._values())
        if self._leaves or any(isinstance(module, PyroModule) for module in self.modules()):
            yield LocalParameters()
        if self._supports:
            yield OneSite(self._supports)

    @contextmanager
    def _own_modules_in_place(self, batch: Batch) -> Iterator[None]:
        """Of a copy of a pair, lends its modules' parameters to those that the functions still refer to."""
        with ExitStack() as lent:
            if self._is_copy:
                referred = modules_of(self._guide[0], self._model[0], given=_arguments(batch))
                for name, place in self._places.items():
                    if referred[place] is not self.get_submodule(name):
                        lent.enter_context(contents_lent(self.get_submodule(name), referred[place]))
            yield

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._unlearned = None
        self._is_copy = True  # by copy.copy, copy.deepcopy or pickle, which share functions


def example_for(model: Callable, guide: Callable, example: Any) -> Batch:
    """The example as the functions take it, of the types of their modules' parameters."""
    functions: Any = nn.ModuleList(modules_of(guide, model))
    batch = as_batch(example)  # whole, as the guide may have parameters for its rows
    functions.__dict__.update(model=model, guide=guide, own_rows=batch)  # plainly, lest modules be registered
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        return to_pair(data_for(functions, batch), functions)


def _drawing(guide: Callable) -> Callable:
    """A guide's draws alone: one of Pyro's GuideMessengers runs the model too, with its observations."""
    if not isinstance(poutine.unwrap(guide), GuideMessenger):
        return guide
    return poutine.block(guide, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])


def _arguments(batch: Batch) -> list[Any]:
    """What the functions are called with, dicts in the order of their keys."""
    return [batch[key] for key in sorted(batch)] if isinstance(batch, dict) else list(entries(batch).values())


def _announced(traces: list[Trace], state: Any, modules: list[nn.Module]) -> dict[str, Any]:
    """The leaves behind all `pyro.param` and `pyro.module` statements of the traces, by name."""
    held = {id(parameter) for module in modules for parameter in module.parameters()}
    result: dict[str, Any] = {}
    for name, site in ((name, site) for trace in traces for name, site in trace.nodes.items()):
        if site["type"] != "param":
            continue
        if name in state["params"]:
            value = state["params"][name]
            if _DIVIDER in name:
                own = site["args"][1]  # by which a module computes, whatever the store has, unless it was given that
                value = own if id(own) in held else value
                _refuse_lost(name, id(value) in held, result.get(name, value) is value)
            result[name] = value
        elif (value := leaf_behind(site["value"])).requires_grad:  # a module's alone: Pyro's module_local_params
            _refuse_lost(name, id(value) in held, is_one=True)
            while result.get(name, value) is not value:
                name += "_"
            result[name] = value
    return result


def _refuse_lost(name: str, is_held: bool, is_one: bool) -> None:
    """Refuses a parameter of a module that cannot be found, or that is not the only one of its name."""
    where = f"pyro.module '{name.partition(_DIVIDER)[0]}'"
    if not is_held:
        raise ContractError(
            f"{where}: found a module that model and guide do not hold themselves, expected one that can be found, as "
            "a copy of the pair has its own; let the functions refer to it by a global or closure variable, by an "
            "attribute of their object or of a Python module, or take it as an argument"
        )
    if not is_one:
        raise ContractError(
            f"{where}: found two modules of this name, one in the guide, one in the model, expected one, as Pyro "
            "learns by name, and the other would keep its first values; give each a name of its own"
        )
