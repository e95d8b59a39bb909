"""How an object was made, in words that a file can hold: its class, and the arguments that it was given.

Numbers, strings, None, and sequences and dicts of these can be said, and classes of `torch.nn`, such as activations.
Modules and functions cannot: an object that was given one has no recipe.
"""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

Recipe = dict[str, Any]
Made = TypeVar("Made")
Given = ParamSpec("Given")


def recipe_of(cls: type, method: str, args: tuple, kwargs: dict[str, Any]) -> Recipe | None:
    """What `made` needs to make an object again; None where an argument cannot be said.

    Args:
        cls: the class.
        method: the name of the class method that made it; empty for the class itself.
        args: what it was given.
        kwargs: what it was given by name.
    """
    try:
        said = {"args": list(map(_said, args)), "kwargs": {key: _said(value) for key, value in kwargs.items()}}
    except TypeError:
        return None
    return {"class": class_name(cls), "method": method, **said}


def made(cls: type[Made], recipe: Recipe) -> Made:
    """An object of a class, as the recipe has it."""
    make: Any = getattr(cls, recipe["method"]) if recipe["method"] else cls
    return make(*map(_meant, recipe["args"]), **{key: _meant(value) for key, value in recipe["kwargs"].items()})


def class_name(cls: type) -> str:
    """The full name, by which a class is found again."""
    return f"{cls.__module__}.{cls.__qualname__}"


def remembered(
    method: Callable[Concatenate[type[Made], Given], Made],
) -> Callable[Concatenate[type[Made], Given], Made]:
    """Decorates a class method that makes an object, below `@classmethod`: the object's recipe is the call of it."""

    @functools.wraps(method)
    def make(cls: type[Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
        result: Any = method(cls, *args, **kwargs)
        result.recipe = recipe_of(cls, method.__name__, args, kwargs)
        return result

    return make


def _said(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return {type(value).__name__ if type(value) in (list, tuple) else "tuple": [_said(item) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _said(item) for key, item in value.items()}}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    name = getattr(value, "__name__", "")
    if name and getattr(nn, name, None) is value:
        return {"torch.nn": name}
    raise TypeError(f"found {type(value).__name__}, which a file cannot hold")


def _meant(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    kind, value = next(iter(said.items()))
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_meant(item) for item in value)
    if kind == "dict":
        return {key: _meant(item) for key, item in value.items()}
    return getattr(torch if kind == "dtype" else nn, value)
