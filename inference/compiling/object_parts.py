"""What objects, classes and functions are made of, as far as Python shows it, and how they are given it back."""

import functools
import types
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppvae.inference.compiling.reasons import LIBRARIES

OTHERS = LIBRARIES - {"ppvae"} | {"numpy"}
"""Libraries whose own objects are not looked into; those of this one may hold users' functions."""


@functools.lru_cache
def _cached() -> None:
    """Of the type that cached functions have."""


CACHED = type(_cached)


def parts(value: Any) -> dict[Any, Any]:
    """What makes an object what it is, as far as Python shows it."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, (list, tuple, deque)):
        return dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return dict.fromkeys(value, True)
    if isinstance(value, np.ndarray):
        return dict(enumerate(value.flat))
    if isinstance(value, types.FunctionType):
        return {"code": value.__code__} | {name: cell.cell_contents for name, cell in filled_cells(value).items()}
    if isinstance(value, types.CodeType):
        return {}
    return attributes(value) | slots(value)


def attributes(value: Any) -> dict[str, Any]:
    """The dictionary of an object's attributes; an empty one of its own where it has none."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def slots(value: Any) -> dict[str, Any]:
    """What is in an object's slots."""
    found = {}
    for name, member in slots_of(type(value)):
        try:
            found[name] = member.__get__(value)
        except AttributeError:
            continue  # nothing is
    return found


def slots_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The slots that classes define in Python, by name."""
    for base in kind.__mro__:
        if "__slots__" in vars(base):
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    yield name, member


def put_slots(value: Any, old: dict[str, Any]) -> None:
    """Puts these into an object's slots, and empties the others."""
    for name, member in slots_of(type(value)):
        if name in old:
            member.__set__(value, old[name])
        elif name in slots(value):
            member.__delete__(value)


def filled_cells(function: types.FunctionType) -> dict[str, types.CellType]:
    """What a function has of the functions around it, by name, as far as it is there."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:
            continue
        found[name] = cell
    return found


def refill(holder: Any, old: dict[Any, Any]) -> None:
    """Gives a dict, list, deque, set or array of objects what it had."""
    if isinstance(holder, dict):
        kind = OrderedDict if isinstance(holder, OrderedDict) else dict
        kind.clear(holder)
        for name, value in old.items():
            kind.__setitem__(holder, name, value)
    elif isinstance(holder, np.ndarray):
        for i, value in old.items():
            holder.flat[i] = value
    elif isinstance(holder, set):
        holder.clear()
        holder.update(old)
    else:
        holder.clear()
        holder.extend(old.values())


def rename(names: dict[str, Any], old: dict[str, Any], skipped: Any) -> None:
    """Gives names their old values, and takes away those that are new."""
    for name in names.keys() - old.keys() - set(skipped):
        del names[name]
    names.update(old)


def functions_in(member: Any) -> list[Any]:
    """The functions that a member of a class calls, if it is a method, a property or alike."""
    if type(member) in (types.FunctionType, CACHED):
        return [member]
    if issubclass(type(member), property):
        return [f for f in (member.fget, member.fset) if f is not None]
    if isinstance(member, (staticmethod, classmethod)):
        return [member.__func__]
    if isinstance(member, (functools.cached_property, functools.partialmethod)):
        return [member.func]
    return [member] if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)) else []


def names_in(code: types.CodeType) -> set[str]:
    """The names that code uses, in functions within it, too."""
    within = [names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*within)


def is_special(name: str) -> bool:
    return name.startswith("__") or name == "_abc_impl"


def library(code: Any) -> str:
    """The package that a class or a function is from; empty if it does not say."""
    try:
        module = code.__module__
    except Exception:  # of any kind: users' code
        return ""
    return module.partition(".")[0] if isinstance(module, str) else ""


def is_users(code: Any) -> bool:
    """Whether a class or a function may be a user's."""
    return library(code) not in OTHERS


def is_ours(code: Any) -> bool:
    return library(code) == "ppvae"
