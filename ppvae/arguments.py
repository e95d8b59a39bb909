"""What an argument may be, said by its annotation; `@checked` holds each call to it before anything runs.

Classes, unions, `Literal`, sequences, mappings and functions are checked as they stand, element by element. What is
narrower is `Annotated` with a rule, as the aliases below are: type checkers see the plain type. `Any`, type variables
and protocols are not checked, nor is what several arguments must be together: that stays in the function.
"""

import functools
import inspect
from collections import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.devices import held_by
from ppvae.lost_digits import refuse_lost_digits
from ppvae.rules import (
    MOST_INT,
    AnyOf,
    CountOrData,
    Elements,
    Entries,
    FilePath,
    Flag,
    Function,
    Instance,
    Mask,
    Number,
    Numbers,
    OneOf,
    Places,
    Rule,
    Subclass,
    Unchecked,
    Whole,
)
from ppvae.sources import as_tensor

Checked = TypeVar("Checked", bound=Callable)


def checked(function: Checked) -> Checked:
    """Decorates a function, a method or a class: its arguments are checked against their annotations at each call.

    Where tensors are meant, NumPy arrays become tensors, and all of them go to the device of a method's own module.

    Annotations are read once, at the first call. A class is checked where its objects are made; a dataclass is
    decorated above `@dataclass`, and its `__post_init__` finds checked values.

    Raises:
        TypeError: at a call, an argument of another type; `name: found ..., expected ...`.
        ValueError: one of this type, but out of range.

    Example:
        >>> @checked
        ... def draw(num: Count, kind: Literal["normal", "uniform"] = "normal", seed: Seed | None = None) -> None: ...
        >>> draw(0)
        Traceback (most recent call last):
        ValueError: num: found 0, expected at least 1, a whole number
        >>> draw(1, "norm")
        Traceback (most recent call last):
        ValueError: kind: found 'norm', expected 'normal' or 'uniform'; did you mean 'normal'?
    """
    if isinstance(function, type):
        function.__init__ = checked(vars(function)["__init__"])  # type: ignore[misc]
        return function

    @functools.cache
    def rules() -> tuple[list[tuple[str, Rule | None]], dict[str, Rule | None]]:
        return _rules_of(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        by_place, by_name = rules()
        if any(isinstance(value, np.ndarray | Tensor) for value in (*args, *kwargs.values())):
            places, like = zip(by_place, args[: len(by_place)], strict=False), _floating(next(iter(args), None))
            args = (*(_taken(name, rule, value, like) for (name, rule), value in places), *args[len(by_place) :])
            kwargs = {name: _taken(name, by_name.get(name), value, like) for name, value in kwargs.items()}
        for (name, rule), value in zip(by_place, args, strict=False):
            if rule is not None:
                _hold(name, rule, value)
        for name, value in kwargs.items():
            if (rule := by_name.get(name)) is not None:
                _hold(name, rule, value)
        return function(*args, **kwargs)

    call.__signature__ = _readable(inspect.signature(function))  # type: ignore[attr-defined]
    return cast(Checked, call)


def _readable(signature: inspect.Signature) -> inspect.Signature:
    """The signature as `help` is to show it: types without the rules."""
    parameters = [p.replace(annotation=_plain(p.annotation)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=_plain(signature.return_annotation))


def _plain(hint: Any) -> Any:
    """An annotation without `Annotated`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain(inner[0])
    if not inner or origin in (Literal, abc.Callable):
        return hint
    plain = tuple(map(_plain, inner))
    return Union[plain] if origin in (Union, UnionType) else origin[plain]  # noqa: UP007 (of a tuple)


def _hold(name: str, rule: Rule, value: Any) -> None:
    if (found := rule.problem(value)) is not None:
        raise found.error(f"{name}{found.where}: {found}")


def _floating(own: Any) -> Tensor | None:
    """A module's first parameter of real numbers, or else buffer, if it has one."""
    if not isinstance(own, nn.Module) or "_parameters" not in vars(own):  # not yet, where its class is checked
        return None
    return next((t for t in held_by(own) if t.is_floating_point()), None)


def _taken(name: str, rule: Rule | None, value: Any, like: Tensor | None) -> Any:
    """A tensor, or an array where one is meant, on a module's device; numbers of an array are of its precision, too."""
    if not isinstance(value, np.ndarray | Tensor) or not _is_of_tensors(rule):
        return value
    if isinstance(value, Tensor):
        return value if like is None else value.to(like.device)
    t = as_tensor(name, value)
    if like is None:
        return t
    if t.is_floating_point():
        refuse_lost_digits(name, t, like.dtype)
    return t.to(like.device, like.dtype if t.is_floating_point() else t.dtype)


def _is_of_tensors(rule: Rule | None) -> bool:
    if isinstance(rule, AnyOf):
        return any(map(_is_of_tensors, rule.rules))
    return isinstance(rule, Numbers | Mask) or (isinstance(rule, Instance) and rule.cls is Tensor)


def _rules_of(function: Callable) -> tuple[list[tuple[str, Rule | None]], dict[str, Rule | None]]:
    """The rules of a function's arguments: those that may be given by place, in order, and all by name."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    rules = {
        p.name: rule_of(hints.get(p.name, Any)) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [(name, rules[name]) for name in by_place], rules


def rule_of(hint: Any) -> Rule | None:
    """The rule that an annotation says; None where everything may be meant."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((rule for rule in hint.__metadata__ if isinstance(rule, Rule)), None) or rule_of(inner[0])
    if isinstance(hint, TypeVar) and hint.__constraints__:
        return rule_of(Union[hint.__constraints__])  # noqa: UP007 (of a tuple)
    if origin is Literal:
        return OneOf(inner)
    if origin in (Union, UnionType):
        rules = [rule_of(kind) for kind in sorted(inner, key=lambda kind: kind is not NoneType)]  # the quickest first
        return None if None in rules else AnyOf(tuple(cast(list[Rule], rules)))
    if origin is type:
        return Subclass(inner[0])
    return _of_class(origin or hint, inner)


def _of_class(cls: Any, inner: tuple[Any, ...]) -> Rule | None:
    if cls in (None, NoneType):
        return Instance(NoneType)
    if not isinstance(cls, type) or cls in (Any, object) or _is_bare_protocol(cls):
        return None
    if cls is bool:
        return Flag()
    if cls in (int, float):
        return Whole(limit=MOST_INT) if cls is int else Number(finite=False)
    if cls is Callable:
        return Function()
    if cls in (dict, Mapping):
        return Entries(rule_of(inner[0]), rule_of(inner[1])) if inner else Entries(None, None)
    if cls is tuple and inner and inner[-1] is not Ellipsis:
        return Places(tuple(map(rule_of, inner)))
    if cls in (list, tuple) and (not inner or inner[0] is Any):
        return Instance(cls)
    if cls in (list, tuple, Sequence, Collection, Iterable):
        return Elements(rule_of(inner[0]) if inner else None, unordered=cls in (Collection, Iterable))
    return Instance(cls)


def _is_bare_protocol(cls: type) -> bool:
    """Whether no object can be asked if it follows this protocol."""
    return getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False)


# Whole numbers. What is above the limit of a kind is a slip: it would take all memory, or years.
Count: TypeAlias = Annotated[int, Whole(at_least=1)]
Natural: TypeAlias = Annotated[int, Whole(at_least=0)]
Seed: TypeAlias = Annotated[int, Whole(at_least=0, limit=MOST_INT)]
Size: TypeAlias = Annotated[int, Whole(at_least=1, limit=10**7)]
"""Of a layer, or of an axis of data."""
Few: TypeAlias = Annotated[int, Whole(at_least=1, limit=10**4)]
"""Modules or dimensions: of something that is made one by one."""
Sizes: TypeAlias = Annotated[Sequence[int], Elements(Whole(at_least=1, limit=10**7), at_least=1)]
"""A shape, or the sizes of layers: one at least."""

_SIDE = Whole(at_least=1, limit=10**7)
ImageShape: TypeAlias = Annotated[
    tuple[int, int, int], Places((_SIDE,) * 3, "(channels, height, width), such as (1, 28, 28)")
]
GrayShape: TypeAlias = Annotated[tuple[int, int], Places((_SIDE,) * 2, "(height, width)")]
"""Of an image of one channel."""
Shape: TypeAlias = GrayShape | ImageShape
"""Of an image, with or without its channels."""

# Real numbers.
Real: TypeAlias = Annotated[float, Number()]
Positive: TypeAlias = Annotated[float, Number(above=0)]
NonNegative: TypeAlias = Annotated[float, Number(at_least=0)]
Fraction: TypeAlias = Annotated[float, Number(at_least=0, at_most=1)]

Levels: TypeAlias = Annotated[int, Whole(at_least=2, limit=2**16, said="2 or more gray levels; 8-bit images have 256")]

Schedule: TypeAlias = Annotated[Callable[[Any], Any], Function("a schedule, a function of the step", made=True)]
Device: TypeAlias = Annotated[torch.device | str, Unchecked()]
"""See `ppvae.devices`."""

File: TypeAlias = Annotated[str | Path, FilePath()]
NumberOrBatch: TypeAlias = Annotated[Any, CountOrData(at_least=1, said="at least 1, a whole number, or a batch")]
RealTensor: TypeAlias = Annotated[Tensor, Numbers()]
Rows: TypeAlias = Annotated[Tensor, Numbers(rows=1)]
Finite: TypeAlias = Annotated[Tensor, Numbers(finite=True)]
Observed: TypeAlias = Annotated[Tensor, Numbers(finite=True, rows=1)]
"""Data points `[N, *event]`, one at least."""
Spread: TypeAlias = Annotated[Tensor, Numbers(finite=True, rows=2)]
"""Data points that a standard deviation is taken of."""
PointMask: TypeAlias = Annotated[Tensor, Mask()]
"""True at some data points, `[N]`."""

Distributed: TypeAlias = Literal["auto", True, False]
"""Whether the processes of torch's process group share the work; "auto" where there is a group, or is to be one."""
