"""Kinds of arguments: of each a valid value, and malformed ones, each with what it is called in a report.

All values are made anew for each call. A malformed value is nonsense: a call that takes it and returns is wrong, except
for those in `unclear`, which may be meant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

Make = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """What an argument is.

    Attributes:
        valid: makes a value that can be meant.
        malformed: makers of values that cannot, by label.
        unclear: labels of those that may be meant after all.
        names: words of which a message must have one, besides the argument's name, to say what it is about.
    """

    valid: Make
    malformed: dict[str, Make]
    unclear: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()

    def besides(self, *labels: str) -> "Kind":
        """The same, where the values of these labels may be meant."""
        return replace(self, unclear=self.unclear | {*labels})


FUNCTIONS = (FunctionType, BuiltinFunctionType)


def always(value: Any) -> Make:
    return lambda: value


class Unrelated:
    """An object of no kind that is known here."""


JUNK: dict[str, Make] = {
    "None": always(None),
    "object": Unrelated,
    "class": always(Unrelated),
    "complex": always(1 + 2j),
    "bytes": always(b"x"),
    "set": lambda: {1.5},
}
STRINGS: dict[str, Make] = {"empty string": always(""), "string": always("nonsense"), "digits": always("3")}
CONTAINERS: dict[str, Make] = {"empty list": list, "list of None": lambda: [None], "empty dict": dict}
NUMBERS: dict[str, Make] = {
    "nan": always(math.nan),
    "inf": always(math.inf),
    "-inf": always(-math.inf),
    "half": always(1.5),
    "-1": always(-1),
    "huge": always(10**30),
}
ARRAYS: dict[str, Make] = {"array": lambda: np.array([1.0, math.nan]), "tensor": lambda: torch.tensor([1.0, math.nan])}
NOT_NUMBERS = JUNK | STRINGS | CONTAINERS | ARRAYS | {"list": lambda: [3]}


def count(valid: int) -> Kind:
    return Kind(always(valid), NOT_NUMBERS | NUMBERS | {"0": always(0), "True": always(True)})


def from_zero(valid: int) -> Kind:
    return count(valid).besides("0")


def seed() -> Kind:
    return from_zero(0)


def real(valid: float) -> Kind:
    """A number without bounds."""
    kind = Kind(always(valid), NOT_NUMBERS | NUMBERS | {"0": always(0), "True": always(True)})
    return kind.besides("half", "-1", "huge", "0", "True")


def positive(valid: float) -> Kind:
    return Kind(always(valid), NOT_NUMBERS | NUMBERS | {"0": always(0)}).besides("half", "huge")


def non_negative(valid: float) -> Kind:
    return positive(valid).besides("0")


def fraction(valid: float) -> Kind:
    return Kind(always(valid), NOT_NUMBERS | NUMBERS).besides("0")


def flag(valid: bool) -> Kind:
    values = JUNK | STRINGS | CONTAINERS | ARRAYS | {"2": always(2), "nan": always(math.nan)}
    return Kind(always(valid), values)


def choice(valid: str) -> Kind:
    typo = {"typo": always(valid[:-1] + "_"), "capitals": always(valid.upper()), "number": always(3)}
    return Kind(always(valid), JUNK | STRINGS | CONTAINERS | typo)


def text(valid: str = "name") -> Kind:
    kind = Kind(always(valid), JUNK | CONTAINERS | ARRAYS | {"number": always(3)})
    return kind


def optional(kind: Kind) -> Kind:
    return kind.besides("None")


def instance(valid: Make, *also: str, names: tuple[str, ...] = ()) -> Kind:
    """An object of a class; `also` are labels of what may be meant besides."""
    own = {"its class": lambda: type(valid()), "list": lambda: [valid()]}
    malformed = JUNK | STRINGS | CONTAINERS | NUMBERS | ARRAYS | own
    return Kind(valid, malformed, frozenset(also), names)


def function(valid: Callable, *also: str) -> Kind:
    """Something to call; the class of an object that is called is none, as a call of it makes an object."""
    malformed = {label: make for label, make in (JUNK | STRINGS | CONTAINERS | NUMBERS).items() if label != "class"}
    own = {} if isinstance(valid, FUNCTIONS) else {"its class": always(type(valid))}
    return Kind(always(valid), malformed | own, frozenset(also))


def module_class(valid: type = nn.Tanh) -> Kind:
    return Kind(always(valid), JUNK | STRINGS | CONTAINERS | NUMBERS | {"instance": valid})


def path(valid: Make) -> Kind:
    """Of a file to write, or one that is there."""
    values = {label: make for label, make in (JUNK | CONTAINERS | NUMBERS | ARRAYS).items() if label != "bytes"}
    return Kind(
        valid, values | {"empty string": always(""), "folder": always("/"), "bytes": always(b"\0")}, names=("path",)
    )


def sequence(element: Kind, num: int = 2, *also: str) -> Kind:
    """A tuple of `num` elements; malformed as a whole, or in one element."""

    def valid() -> tuple:
        return tuple(element.valid() for _ in range(num))

    whole = {label: make for label, make in (JUNK | NUMBERS | STRINGS | CONTAINERS).items() if label != "set"}
    inner = {f"[{label}]": _with_last(valid, make) for label, make in element.malformed.items()}
    return Kind(valid, whole | inner, frozenset(also) | {f"[{label}]" for label in element.unclear}, element.names)


def sizes(*valid: int) -> Kind:
    """Whole numbers of one at least, such as a shape."""
    return replace(sequence(count(2), len(valid)), valid=always(valid), unclear=frozenset())


def _with_last(valid: Make, make: Make) -> Make:
    return lambda: (*valid()[:-1], make())


def mapping(element: Kind, name: str = "a", *also: str) -> Kind:
    whole = JUNK | NUMBERS | STRINGS | {"empty list": list, "list of None": lambda: [None], "empty dict": dict}
    inner = {f"{{{label}}}": (lambda make=make: {name: make()}) for label, make in element.malformed.items()}
    unclear = frozenset(also) | {f"{{{label}}}" for label in element.unclear}
    keys = {"number as key": lambda: {3: element.valid()}}
    return Kind(lambda: {name: element.valid()}, whole | inner | keys, unclear, element.names)


DATA_NAMES = ("data", "site", "model", "guide", "batch", "x:", "points")


def data(valid: Make, *also: str) -> Kind:
    """Data points: a tensor of rows."""

    def changed(change: Callable[[torch.Tensor], Any]) -> Make:
        return lambda: change(valid())

    def poisoned(value: float) -> Make:
        def make() -> torch.Tensor:
            x = valid().clone()
            x.view(-1)[-1] = value
            return x

        return make

    malformed: dict[str, Make] = {
        "None": always(None),
        "object": Unrelated,
        "class": always(Unrelated),
        "function": always(print),
        "string": always("nonsense"),
        "number": always(3),
        "nan": poisoned(math.nan),
        "inf": poisoned(math.inf),
        "complex": changed(lambda x: x.to(torch.complex64)),
        "complex array": changed(lambda x: x.numpy().astype(complex)),
        "strings": changed(lambda x: x.numpy().astype(str)),
        "list of strings": lambda: ["a", "b"],
        "objects": changed(lambda x: np.array([object()] * len(x))),
        "ragged list": lambda: [[1.0, 2.0], [3.0]],
        "text in a table": changed(lambda x: pd.DataFrame({"a": ["text"] * len(x), "b": [1.0] * len(x)})),
        "dates": changed(lambda x: np.array(["2020-01-01"] * len(x), dtype="datetime64[D]")),
        "no rows": changed(lambda x: x[:0]),
        "no dimension": always(torch.tensor(1.0)),
        "too wide": changed(lambda x: torch.cat([x, x[..., :1], x[..., :1]], -1) if x.dim() > 1 else x[:, None]),
        "too narrow": changed(lambda x: x[..., :1] if x.dim() > 1 else x[:0]),
        "one dimension more": changed(lambda x: x[:, None, None]),
        "empty list": list,
        "empty dict": dict,
        "wrong keys": changed(lambda x: {"nobody": x}),
        "two": changed(lambda x: (x, x)),
        "of two lengths": changed(lambda x: (x, x[:1])),
        "sparse": changed(lambda x: x.to_sparse()),
        "generator": always(i for i in ()),
    }
    return Kind(valid, malformed, frozenset(also), DATA_NAMES)


def tensor(valid: Make, *also: str) -> Kind:
    """A tensor of real numbers, of a shape that is known."""
    malformed = (
        JUNK
        | STRINGS
        | CONTAINERS
        | {
            "number": always(3),
            "complex tensor": lambda: valid().to(torch.complex64),
            "nan": lambda: torch.full_like(valid(), math.nan),
            "no dimension": always(torch.tensor(1.0)),
            "too many dimensions": lambda: valid()[(None,) * 4],
        }
    )
    return Kind(valid, malformed, frozenset(also), DATA_NAMES)


@dataclass(frozen=True)
class Call:
    """A valid call of a public callable: what it is a method of, if of anything, and its arguments.

    Attributes:
        arguments: the kinds of all arguments that are checked, by name.
        owner: makes the object whose method is called.
        fixed: makers of further arguments, which are not varied.
    """

    arguments: dict[str, Kind]
    owner: Make | None = None
    fixed: dict[str, Make] = field(default_factory=dict)
