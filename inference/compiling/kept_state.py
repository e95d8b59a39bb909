"""What Python keeps from call to call: numbers, containers and tensors that are no parameters or buffers.

A program holds their values, and would not see them change. So what a call changes of them while it is traced is found,
and set back, as tracing calls more often than training does.
"""

import argparse
import functools
import random
import types
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.inference.compiling.inputs import PLAIN, CannotCompileError
from ppvae.inference.compiling.kept_places import (
    DRAW,
    KEEP,
    Content,
    Names,
    address,
    differs,
    num_bytes,
    of_array,
    of_tensor,
)
from ppvae.inference.compiling.object_parts import (
    CACHED,
    OTHERS,
    attributes,
    filled_cells,
    functions_in,
    is_ours,
    is_special,
    is_users,
    names_in,
    put_slots,
    refill,
    rename,
    slots,
)

MOST = 100_000
"""Values that are watched, which takes a fifth of a second; where there are more, nothing is compiled."""
MOST_BYTES = 64 * 2**20
"""Of copies of tensors and arrays. Writing to further tensors is seen, too; further arrays cannot be watched."""

HOLDERS = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList)
"""Classes of these libraries whose objects hold what users put there."""
OF_MODULES = set(vars(nn.Module())) - {"training"}
"""What each module keeps for torch; parameters, buffers and modules are looked at by themselves."""
ATOMS = {*PLAIN, bytes, types.BuiltinFunctionType, types.CodeType}


@contextmanager
def state_stays(*owners: Any) -> Iterator[list[Tensor]]:
    """Around what runs modules, functions and objects; sets back what it changes of what they keep.

    Random generators of Python and NumPy count as kept, too. To the list that it yields are added the tensors that a
    trace has met and not been given: an attribute that is assigned anew in each call matters only if its old value is
    among these.

    Raises:
        CannotCompileError: something was changed, which explains others of this kind; or there is too much to watch.
    """
    watch, error = _Watch(owners), None
    met: list[Tensor] = []
    try:
        yield met
    except CannotCompileError as reason:
        error = reason
    finally:
        changes = watch.set_back(met)
    if changes:
        raise CannotCompileError(changes[0]) from error
    if error is not None:
        raise error


class _Watch:
    """What was there at first, wherever in attributes, containers, closures and globals it is."""

    def __init__(self, owners: Sequence[Any]) -> None:
        self._places: list[Names | Content] = []
        self._seen: dict[int, Any] = {}
        self._left, self._bytes_left = MOST, MOST_BYTES
        self._todo: list[tuple[Any, str]] = []
        modules = [owner for owner in owners if isinstance(owner, nn.Module)]
        given: list[Any] = [t for m in modules for t in (*m.buffers(), *(p for p in m.parameters() if p.requires_grad))]
        given += [torch.random.default_generator, *torch.cuda.default_generators]
        self._seen |= {id(t): t for t in given}  # they are a program's inputs
        self._given = {address(t) for t in given if isinstance(t, Tensor)}
        self._add_generator("random", "Python's generator", random.getstate, random.setstate)
        self._add_generator("numpy.random", "NumPy's generator", np.random.get_state, np.random.set_state)
        self._todo = [(owner, type(owner).__name__) for owner in reversed(owners)]
        while self._todo:
            self._add(*self._todo.pop())

    def set_back(self, met: Sequence[Tensor]) -> list[str]:
        """What was changed, in words."""
        changes = []
        for place in self._places:
            try:
                said = place.changes(met)
            except Exception as error:  # of any kind: users' code
                said = [f"{place.where}: found what cannot be compared ({type(error).__name__}), {KEEP}"]
            if said:
                changes += said
                with suppress(Exception):  # the others are put back all the same
                    place.put_back()
        return changes

    def _add(self, value: Any, where: str) -> None:
        kind = type(value)  # not `isinstance`, which asks an object, and some raise
        if kind in ATOMS or issubclass(kind, np.generic) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        self._count(1, where)
        if issubclass(kind, nn.Module):
            for part in value.modules():
                self._seen[id(part)] = part
                self._add_object(part)
                for name, t in [*part._parameters.items(), *part._buffers.items()]:
                    self._todo.append((t, f"{type(part).__name__}.{name}"))
        elif issubclass(kind, Tensor):
            self._add_tensor(value, where)
        elif issubclass(kind, np.ndarray):
            self._add_array(value, where)
        elif issubclass(kind, dict):
            self._add_names(where + ": ", lambda: dict(dict.items(value)), value)
        elif issubclass(kind, (list, deque)):
            self._add_names(where + ": ", lambda: dict(enumerate(value)), value)
        elif issubclass(kind, set):
            self._add_names(where + ": ", lambda: {each: each for each in value}, value)
        elif issubclass(kind, bytearray):
            before = bytes(value)
            self._places.append(
                Content(
                    where, "bytearray that a call writes to", lambda: value == before, lambda: value.__init__(before)
                )
            )
        elif issubclass(kind, (tuple, frozenset)):
            self._count(len(value), where)
            self._todo += [(each, where) for each in value]
        elif issubclass(kind, types.FunctionType):
            self._add_function(value)
        elif issubclass(kind, types.MethodType):
            self._todo += [(value.__self__, where), (value.__func__, where)]
        elif issubclass(kind, functools.partial):
            self._todo += [(each, where) for each in (value.func, value.args, value.keywords, attributes(value))]
        elif issubclass(kind, type):
            self._add_class(value)
        elif kind is CACHED:
            self._todo.append((value.__wrapped__, where))
        elif issubclass(kind, random.Random):
            self._add_generator(where, kind.__name__, value.getstate, value.setstate)
        elif issubclass(kind, np.random.RandomState):
            self._add_generator(where, kind.__name__, value.get_state, value.set_state)
        elif issubclass(kind, (np.random.Generator, np.random.BitGenerator)):
            bits = getattr(value, "bit_generator", value)
            self._add_generator(where, kind.__name__, lambda: bits.state, lambda old: setattr(bits, "state", old))
        elif issubclass(kind, torch.Generator):
            self._add_generator(where, kind.__name__, lambda: value.get_state().numpy(), _sets_state(value))
        elif kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
            raise CannotCompileError(
                f"{where}: found a {kind.__name__}, expected what stays from call to call, as an iterator goes on with "
                "each look at it; count in a buffer, changed in place"
            )
        elif issubclass(kind, HOLDERS) or is_users(kind):
            self._add_object(value)

    def _count(self, number: int, where: str) -> None:
        self._left -= number
        if self._left < 0:
            raise CannotCompileError(
                f"{where.removesuffix(': ')}: found more than {MOST} values in attributes, closures and globals, "
                "expected fewer, as all are watched for changes; keep large tables in tensors or arrays"
            )

    def _add_names(
        self,
        where: str,
        now: Callable[[], dict[Any, Any]],
        holder: Any = None,
        put: Callable[[dict[Any, Any]], Any] | None = None,
    ) -> None:
        """Watches values by name: of a container, or of what is filled by `put`."""
        if holder is not None:
            self._count(len(holder), where)
        put = put or functools.partial(refill, holder)
        place = Names(where, now, put, filled_freely=holder is None)
        self._places.append(place)
        self._todo += [(v, f"{where}{name}") for name, v in place.before.items() if type(v) not in ATOMS]

    def _add_object(self, value: Any) -> None:
        """Attributes, slots, and what the class keeps."""
        own, where = attributes(value), type(value).__name__ + "."
        skipped = OF_MODULES if isinstance(value, nn.Module) else set()
        self._count(len(own), where)
        self._add_names(
            where,
            lambda: {n: v for n, v in own.items() if n not in skipped},
            put=lambda old: rename(own, old, skipped),
        )
        if slots(value):
            self._add_names(where, lambda: slots(value), put=lambda old: put_slots(value, old))
        self._todo.append((type(value), where))

    def _add_class(self, kind: type) -> None:
        """Class attributes, and what methods keep."""
        for base in filter(is_users, kind.__mro__):
            if base is not kind and id(base) in self._seen:
                continue
            self._seen[id(base)] = base
            members = {name: v for name, v in vars(base).items() if not is_special(name)}
            self._count(len(members), base.__name__)
            for name, v in vars(base).items():
                self._todo += [(f, f"{base.__name__}.{name}") for f in functions_in(v)]
            if not is_ours(base):
                self._add_class_attributes(base)

    def _add_class_attributes(self, base: type) -> None:
        def now() -> dict[str, Any]:
            return {n: v for n, v in vars(base).items() if not is_special(n) and not functions_in(v)}

        def put(old: dict[str, Any]) -> None:
            for name in now().keys() - old.keys():
                type.__delattr__(base, name)
            for name, v in old.items():
                if vars(base).get(name, put) is not v:
                    type.__setattr__(base, name, v)

        self._add_names(f"{base.__name__}.", now, put=put)

    def _add_function(self, function: types.FunctionType) -> None:
        if not is_users(function):
            return
        cells = filled_cells(function)

        def put(old: dict[str, Any]) -> None:
            for name, value in old.items():
                cells[name].cell_contents = value

        name = function.__name__
        self._add_names(f"{name}, ", lambda: {n: filled_cells(function)[n].cell_contents for n in cells}, put=put)
        self._todo += [(function.__defaults__, name), (function.__kwdefaults__, name), (attributes(function), name)]
        if not is_ours(function):
            self._add_globals("global ", function.__globals__, names_in(function.__code__))

    def _add_globals(self, where: str, known: dict[str, Any], used: set[str]) -> None:
        """The names of a module that a function uses, and those of modules among them."""

        def now() -> dict[str, Any]:
            return {name: known[name] for name in used if name in known}

        self._add_names(where, now, put=lambda old: rename(known, old, known.keys() - used))
        for module in [v for v in now().values() if type(v) is types.ModuleType]:
            is_users = module.__name__.partition(".")[0] not in OTHERS | {"ppvae"}
            if is_users and (key := id(vars(module)) + hash(frozenset(used))) not in self._seen:
                self._seen[key] = module
                self._add_globals(f"{module.__name__}.", vars(module), used)

    def _add_tensor(self, t: Tensor, where: str) -> None:
        if t.is_meta or address(t) in self._given:
            return
        size = num_bytes(t)
        copies = size <= self._bytes_left
        self._bytes_left -= size * copies
        self._places.append(of_tensor(where, t, copies))

    def _add_array(self, array: np.ndarray, where: str) -> None:
        if array.dtype == object:
            self._count(array.size, where)
            self._add_names(where + ": ", lambda: dict(enumerate(array.flat)), put=lambda old: refill(array, old))
        elif array.flags.writeable:
            self._bytes_left -= array.nbytes
            if self._bytes_left < 0:
                raise CannotCompileError(
                    f"{where}: found arrays of more than {MOST_BYTES >> 20} MB that may be written to, expected fewer, "
                    "as all are watched for changes; make them read-only, by array.flags.writeable = False"
                )
            self._places.append(of_array(where, array))

    def _add_generator(self, where: str, name: str, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        before = get()
        what = f"{name} that a call draws from"
        self._places.append(Content(where, what, lambda: not differs(before, get()), lambda: put(before), DRAW))


def _sets_state(generator: torch.Generator) -> Callable[[Any], Any]:
    return lambda old: generator.set_state(torch.from_numpy(old))
