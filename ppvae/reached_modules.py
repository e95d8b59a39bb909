"""The modules that functions reach: by closure, global name, default, attribute, or as an argument."""

import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

LIBRARIES = frozenset({*sys.stdlib_module_names, "torch", "pyro", "numpy", "ppvae"})
"""Packages whose code is not that of a model's author."""
INSTALLED = ("site-packages", "dist-packages")


def modules_of(*functions: Callable, given: Iterable[Any] = ()) -> list[nn.Module]:
    """The outermost modules that functions are, belong to, or refer to.

    Followed are: partials and decorators, the object that a method belongs to, callable objects, containers, defaults,
    what Python modules have by the names in a function, and the other functions and objects of the same files and of
    all that is no installed library. Of a library's objects, such as a distribution, the modules that they hold; of a
    module, what its methods refer to, and those that it holds in lists.

    Args:
        functions: the model and guide, or one of them.
        given: what they are called with.

    Example:
        >>> from types import SimpleNamespace
        >>> nets = SimpleNamespace(decoder=nn.Linear(2, 3))
        >>> modules_of(lambda z: nets.decoder(z))
        [Linear(in_features=2, out_features=3, bias=True)]
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    files = {_file_of(function) for function in functions}
    queue: deque[Any] = deque([*functions, *given])
    while queue:
        value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = value
            queue += [held for held in _attributes(value) if _holds_modules(held)]
            queue += _methods(value) if _is_followed(type(value).__module__, files) else []
        elif isinstance(value, partial):
            files.add(_file_of(value.func))
            queue += [value.func, *value.args, *value.keywords.values()]
        elif inspect.ismethod(value):
            queue += [value.__func__, value.__self__]
        elif isinstance(value, staticmethod | classmethod):
            queue.append(value.__func__)
        elif isinstance(value, FunctionType):
            queue += _reached(value, files) if _is_followed(value.__module__, files) else []
        elif isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, tuple | list):
            queue += value
        elif not isinstance(value, type | ModuleType):
            if _is_followed(type(value).__module__, files):
                queue += [*_attributes(value), *_methods(value)]
            else:
                queue += [held for held in _attributes(value) if _holds_modules(held)]
    inner = {id(module) for outer in found.values() for module in outer.modules() if module is not outer}
    return [module for key, module in found.items() if key not in inner]


def _is_followed(file: str, files: set[str]) -> bool:
    return file in files or not _is_library(file.partition(".")[0])


@cache
def _is_library(package: str) -> bool:
    """Whether a package is Python's own or installed, and not the author's of a model."""
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return package in LIBRARIES or any(folder in path for folder in INSTALLED)


def _file_of(function: Callable) -> str:
    """The name of the Python module in which a function, or the class of an object that is called, is written."""
    return getattr(inspect.unwrap(function), "__module__", "")


def _reached(function: FunctionType, files: set[str]) -> list[Any]:
    """What a function refers to, and the one that it wraps."""
    names = dict.fromkeys(names_in(function.__code__))  # in order, which a copy in another process is to find again
    found = [getattr(function, "__wrapped__", None), *_closure(function)]
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    found += [function.__globals__[name] for name in names if name in function.__globals__]
    for value in found:
        if isinstance(value, ModuleType) and _is_followed(value.__name__, files):
            inside = [vars(value)[name] for name in names if name in vars(value)]
            found += [each for each in inside if not any(each is other for other in found)]
    return found


def names_in(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes in a function's code, and in that of functions inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_in(inner)


def _closure(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable without a value yet
            continue


def _attributes(thing: Any) -> list[Any]:
    """What an object holds, in its dict or its slots."""
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    return [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]


def _methods(thing: Any) -> list[Any]:
    """What the classes of an object hold."""
    return [each for cls in type(thing).__mro__[:-1] for each in vars(cls).values()]


def _holds_modules(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(each, nn.Module) for each in inside)
