"""What Python's objects are made of, by name or number, as far as Python shows it; and how they are given it back."""

import argparse
import functools
import random
import types
from collections import UserDict, UserList, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ppvae.reached_modules import LIBRARIES

SEQUENCES = (list, tuple, deque, bytearray)
CONTAINERS = (dict, *SEQUENCES, set, frozenset)
METHODS = (types.MethodType, property, staticmethod, classmethod, functools.cached_property)
FUNCTIONS = (*METHODS, functools.partial, functools.partialmethod)
"""What Python makes of functions."""
GENERATORS = (random.Random, np.random.RandomState, np.random.BitGenerator, torch.Generator)
"""Of random numbers."""
NAMESPACES = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList)
HOLDERS = (*CONTAINERS, *FUNCTIONS, *GENERATORS, *NAMESPACES, types.CellType, np.ndarray, np.random.Generator)
"""Classes of libraries whose objects hold what users put there."""
OF_MODULES = set(vars(nn.Module())) - {"training"}
"""What each module keeps for torch."""


@dataclass(frozen=True)
class Globals:
    """Those names of a module that some code uses."""

    names: dict[str, Any]
    used: frozenset[str]


def parts(value: Any) -> dict[Any, Any]:
    """What an object is made of."""
    kind = type(value)  # not `isinstance`, which asks an object, and some raise
    if issubclass(kind, dict):
        return dict(dict.items(value))
    if issubclass(kind, SEQUENCES):
        return dict(enumerate(value))
    if issubclass(kind, (set, frozenset)):
        return {each: each for each in value}
    if issubclass(kind, np.ndarray) and value.dtype == object:
        return dict(enumerate(value.flat))
    if issubclass(kind, np.ndarray):
        return {"shape": value.shape, "type": value.dtype, "bytes": np.asarray(value).tobytes()}
    if issubclass(kind, torch.Generator):
        return {"state": value.get_state().numpy()}
    if issubclass(kind, GENERATORS):
        return {"state": value.__getstate__()}
    if kind is np.random.Generator:
        return {"bit_generator": value.bit_generator}
    if kind is types.FunctionType:
        own = ("__code__", "__defaults__", "__kwdefaults__", "__dict__")
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return {name: getattr(value, name) for name in own} | dict(cells)
    if kind is types.CellType:
        with suppress(ValueError):  # it is empty
            return {"cell_contents": value.cell_contents}
        return {}
    if issubclass(kind, type):
        return {"__bases__": value.__bases__} | dict(vars(value))
    if kind is Globals:
        return {name: value.names[name] for name in value.used if name in value.names}
    found = attributes(value) | _members(value)
    if issubclass(kind, nn.Module):
        found = {name: part for name, part in found.items() if name not in OF_MODULES}
        for held in (value._parameters, value._buffers, value._modules):
            found |= held.items()
    return found


def restore(value: Any, old: dict[Any, Any]) -> None:
    """Gives an object back the parts that it had."""
    kind = type(value)
    if issubclass(kind, (dict, set)):
        value.clear()
        value.update(old)
    elif issubclass(kind, SEQUENCES):
        value.clear()
        value.extend(old.values())
    elif issubclass(kind, np.ndarray) and value.dtype == object:
        for i, part in old.items():
            value.flat[i] = part
    elif issubclass(kind, np.ndarray):
        np.asarray(value)[...] = np.frombuffer(old["bytes"], value.dtype).reshape(value.shape)
    elif issubclass(kind, torch.Generator):
        value.set_state(torch.from_numpy(old["state"]))
    elif issubclass(kind, GENERATORS):
        value.__setstate__(old["state"])
    elif kind is Globals:
        for name in parts(value).keys() - old.keys():
            del value.names[name]
        value.names.update(old)
    else:
        base = next(base for base in (type, nn.Module, object) if issubclass(kind, base))
        now, own = parts(value), attributes(value)
        for name in now.keys() - old.keys():
            base.__delattr__(value, name)
        for name, part in old.items():
            if name in own:  # not by setting, as there may be a property of this name
                own[name] = part
            elif name not in now or now[name] is not part:
                base.__setattr__(value, name, part)


def attributes(value: Any) -> dict[str, Any]:
    """The dictionary of an object's attributes; an empty one of its own where it has none."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _members(value: Any) -> dict[str, Any]:
    """What is in the slots that classes define in Python, and in those of what Python makes of functions."""
    found = {}
    for base in type(value).__mro__:
        if "__slots__" in vars(base) or base in FUNCTIONS:
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    with suppress(AttributeError):  # nothing is
                        found[name] = member.__get__(value)
    return found


def may_be_users(value: Any) -> bool:
    """Whether a value may hold what users put there; of what is ours, objects and functions may, and classes do not."""
    kind = type(value)
    others = LIBRARIES if issubclass(kind, type) else LIBRARIES - {"ppvae"}
    return issubclass(kind, (*HOLDERS, nn.Module)) or library(value) not in others


def library(value: Any) -> str:
    """The package that a class, a function or an object's class is from; empty if it does not say."""
    try:
        module = value.__module__
    except Exception:  # of any kind: users' code
        module = type(value).__module__
    return module.partition(".")[0] if isinstance(module, str) else ""
