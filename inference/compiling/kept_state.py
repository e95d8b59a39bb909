"""What Python keeps from call to call: numbers, containers and tensors that are no parameters or buffers.

A program holds their values, and would not see them change. So what a call changes of them while it is traced is found,
and set back, as tracing calls more often than training does.
"""

import random
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.inference.compiling.inputs import PLAIN, CannotCompileError
from ppvae.inference.compiling.kept_places import KEEP, Content, Memory, Place
from ppvae.inference.compiling.object_parts import (
    CONTAINERS,
    GENERATORS,
    Globals,
    attributes,
    library,
    may_be_users,
)
from ppvae.internals import memory_of
from ppvae.reached_modules import LIBRARIES, names_in

MOST = 100_000
"""Values that are watched, which takes a fifth of a second; where there are more, nothing is compiled."""
MOST_BYTES = 64 * 2**20
"""Of copies of tensors and arrays. Writing to further tensors is seen, too; further arrays cannot be watched."""


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
        self._places: list[Place | Memory] = []
        self._seen: dict[Any, Any]
        self._left, self._bytes_left = MOST, MOST_BYTES
        # What a program is given, or draws from, may change.
        modules = [owner for owner in owners if isinstance(owner, nn.Module)]
        given = [t for m in modules for t in (*m.buffers(), *(p for p in m.parameters() if p.requires_grad))]
        drawn = [torch.random.default_generator, *torch.cuda.default_generators]
        self._given, self._seen = {memory_of(t) for t in given}, {id(generator): generator for generator in drawn}
        self._todo = [(owner, type(owner).__name__) for owner in reversed(owners)]
        self._todo += [(np.random.mtrand._rand, "numpy.random"), (random._inst, "random")]
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
        if kind in PLAIN or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        self._count(1 + len(value if issubclass(kind, CONTAINERS) else attributes(value)), where)
        if issubclass(kind, Tensor):
            self._add_tensor(value, where)
        elif issubclass(kind, np.ndarray) and value.dtype != object:
            self._add_array(value, where)
        elif issubclass(kind, GENERATORS):
            self._places.append(Content(value, where))
        elif kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
            raise CannotCompileError(
                f"{where}: found a {kind.__name__}, expected what stays from call to call, as an iterator goes on with "
                "each look at it; count in a buffer, changed in place"
            )
        elif may_be_users(value):
            self._add_parts(Place(value, where))
            self._todo.append((kind, where))
            if kind is types.FunctionType and library(value) not in LIBRARIES:
                self._add_globals("global ", value.__globals__, frozenset(names_in(value.__code__)))

    def _add_parts(self, place: Place) -> None:
        self._places.append(place)
        self._todo += [(part, place.path(name)) for name, part in place.before.items() if type(part) not in PLAIN]

    def _count(self, number: int, where: str) -> None:
        self._left -= number
        if self._left < 0:
            raise CannotCompileError(
                f"{where}: found more than {MOST} values in attributes, closures and globals, expected fewer, as all "
                "are watched for changes; keep large tables in tensors or arrays"
            )

    def _add_globals(self, where: str, known: dict[str, Any], used: frozenset[str]) -> None:
        """The names of a module that a function uses, and those of modules among them."""
        if (id(known), used) in self._seen:
            return
        self._seen[id(known), used] = known
        self._add_parts(place := Place(Globals(known, used), where))
        for module in place.before.values():
            if type(module) is types.ModuleType and module.__name__.partition(".")[0] not in LIBRARIES:
                self._add_globals(f"{module.__name__}.", vars(module), used)

    def _add_tensor(self, t: Tensor, where: str) -> None:
        if not t.is_meta and memory_of(t) not in self._given:
            place = Memory(t, where, self._bytes_left)
            self._places.append(place)
            self._bytes_left -= place.num_bytes

    def _add_array(self, array: np.ndarray, where: str) -> None:
        if not array.flags.writeable:
            return
        self._bytes_left -= array.nbytes
        if self._bytes_left < 0:
            raise CannotCompileError(
                f"{where}: found arrays of more than {MOST_BYTES >> 20} MB that may be written to, expected fewer, "
                "as all are watched for changes; make them read-only, by array.flags.writeable = False"
            )
        self._places.append(Content(array, where))
