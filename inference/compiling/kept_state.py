"""What Python keeps from call to call: numbers, containers and tensors that are no parameters or buffers.

A program holds their values, and would not see them change. So what a call changes of them while it is traced is found,
and set back, as tracing calls more often than training does.
"""

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.inference.compiling.inputs import PLAIN, CannotCompileError
from ppvae.inference.compiling.reasons import LIBRARIES

MOST = 10_000
"""Places that are watched: enough for what changes, and not all of a data set that is an attribute."""

NUMBERS = (*PLAIN, np.generic)
OTHERS = LIBRARIES - {"ppvae"} | {"numpy"}
"""Libraries whose own objects are not looked into; those of this one may hold users' functions."""
OF_MODULES = set(vars(nn.Module())) - {"training"}
"""What each module keeps for torch; parameters, buffers and modules are looked at by themselves."""


@contextmanager
def state_stays(*owners: Any) -> Iterator[list[Tensor]]:
    """Around what runs modules, functions and objects; sets back what it changes of what they keep.

    To the list that it yields are added the tensors that a trace has met and not been given: an attribute that is
    assigned anew in each call matters only if its old value is among these.

    Raises:
        CannotCompileError: something was changed, which explains others of this kind.
    """
    watch, error = _Watch(), None
    met: list[Tensor] = []
    for owner in owners:
        watch.add(owner, type(owner).__name__)
    try:
        yield met
    except CannotCompileError as reason:
        error = reason
    finally:
        changes = watch.set_back(met)
    if changes:
        raise CannotCompileError(
            f"{changes[0]}, expected what stays from call to call, as a program holds its value; keep what changes in "
            "a buffer, changed in place"
        ) from error
    if error is not None:
        raise error


@dataclass
class _Place:
    """Something that holds values by name or number, as they were."""

    where: str
    before: dict[Any, Any]
    now: Callable[[], dict[Any, Any]]
    put: Callable[[dict[Any, Any]], Any]


class _Watch:
    """What was there at first, wherever in attributes, containers, closures and globals it is."""

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._written: list[tuple[str, Any, Any, Callable[[], bool]]] = []
        self._seen: dict[int, Any] = {}

    def add(self, value: Any, where: str) -> None:
        if value is None or isinstance(value, NUMBERS) or id(value) in self._seen or len(self._seen) > MOST:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            given = [*value.buffers(), *(p for p in value.parameters() if p.requires_grad)]
            self._seen |= {id(t): t for t in given}  # they are a program's inputs
            for part in value.modules():
                self._add_attributes(part)
                for name, p in part._parameters.items():
                    self.add(p, f"{type(part).__name__}.{name}")
        elif isinstance(value, Tensor):
            if not value.is_inference():
                self._written.append((where, value, value.detach().clone(), _version_stays(value)))
        elif isinstance(value, np.ndarray):
            copy = value.copy()
            self._written.append((where, value, copy, lambda: np.array_equal(value, copy)))
        elif isinstance(value, dict):
            self._add_names(where, value, lambda: value, ": ")
        elif isinstance(value, (list, deque)):
            self._add_place(where, lambda: dict(enumerate(value)), lambda old: _refill(value, old.values()))
        elif isinstance(value, set):
            self._add_place(where, lambda: dict.fromkeys(value, True), lambda old: _refill(value, old))
        elif isinstance(value, tuple):
            for each in value:
                self.add(each, where)
        elif isinstance(value, functools.partial):
            for each in (value.func, *value.args, *value.keywords.values()):
                self.add(each, where)
        elif isinstance(value, types.MethodType):
            self.add(value.__self__, where)
            self.add(value.__func__, where)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)) and _is_users(type(value)):
            self._add_attributes(value)

    def _add_attributes(self, owner: Any) -> None:
        """And what the owner's methods keep."""
        own, skipped = vars(owner), OF_MODULES if isinstance(owner, nn.Module) else ()
        where = type(owner).__name__
        self._add_names(where, own, lambda: {name: v for name, v in own.items() if name not in skipped}, ".")
        for base in filter(_is_users, type(owner).__mro__):
            for name, member in vars(base).items():
                if isinstance(member, types.FunctionType):
                    self.add(member, f"{base.__name__}.{name}")

    def _add_function(self, function: types.FunctionType) -> None:
        if not _is_users(function):
            return
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))

        def contents() -> dict[str, Any]:
            return {name: cell.cell_contents for name, cell in cells.items() if _is_filled(cell)}

        def refill(old: dict[str, Any]) -> None:
            for name, value in old.items():
                cells[name].cell_contents = value

        self._add_place(function.__name__, contents, refill, ", ")
        used = set(function.__code__.co_names)
        known = function.__globals__
        if not (function.__module__ or "").startswith("ppvae."):
            self._add_names("global", known, lambda: {n: known[n] for n in used if n in known}, " ")

    def _add_names(self, where: str, names: dict[Any, Any], now: Callable[[], dict[Any, Any]], mark: str) -> None:
        def put(old: dict[Any, Any]) -> None:
            for name in now().keys() - old.keys():
                del names[name]
            names.update(old)

        self._add_place(where, now, put, mark)

    def _add_place(
        self, where: str, now: Callable[[], dict[Any, Any]], put: Callable[[Any], Any], mark: str = ": "
    ) -> None:
        before = dict(now())
        self._places.append(_Place(where + mark, before, now, put))
        for name, value in before.items():
            self.add(value, f"{where}{mark}{name}")

    def set_back(self, met: Sequence[Tensor]) -> list[str]:
        """What was changed, in words."""
        changes = []
        for where, value, before, stays in self._written:
            if not stays():
                changes.append(f"{where}: found a {type(value).__name__} that a call writes to")
                with torch.no_grad():
                    value[...] = before
        for place in self._places:
            now = place.now()
            found = {name: value for name, value in now.items() if _differs(place.before, name, value, met)}
            for name, value in found.items():
                old = f" after {place.before[name]!r}" if isinstance(place.before.get(name), PLAIN[1:]) else ""
                shown = repr(value) if isinstance(value, NUMBERS) else f"a {type(value).__name__}"
                changes.append(f"{place.where}{name}: found {shown}{old}")
            changes += [f"{place.where}{name}: found nothing" for name in place.before.keys() - now.keys()]
            if found or place.before.keys() - now.keys():
                place.put(place.before)
        return changes


def _differs(before: dict[Any, Any], name: Any, new: Any, met: Sequence[Tensor]) -> bool:
    if name not in before:
        return new is not None and isinstance(new, NUMBERS)
    old = before[name]
    if old is new or new is None:
        return False
    if isinstance(new, NUMBERS):
        return repr(old) != repr(new)
    if isinstance(old, Tensor):
        return any(_is_same(old, tensor) for tensor in met)
    if isinstance(old, np.ndarray):
        return not (isinstance(new, np.ndarray) and np.array_equal(old, new))
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        return len(old) != len(new) or any(_differs({0: a}, 0, b, met) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() != new.keys() or any(_differs(old, key, value, met) for key, value in new.items())
    return False


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.numel() > 0)


def _version_stays(t: Tensor) -> Callable[[], bool]:
    version = t._version
    return lambda: t._version == version


def _refill(holder: Any, values: Any) -> None:
    kept = list(values)
    holder.clear()
    (holder.update if isinstance(holder, set) else holder.extend)(kept)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_users(code: Any) -> bool:
    """Whether a class or a function may be a user's."""
    return (code.__module__ or "").partition(".")[0] not in OTHERS
