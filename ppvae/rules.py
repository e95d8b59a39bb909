"""Rules for arguments: each tells the values that can be meant from all others, and says what is expected."""

import inspect
import math
import numbers
import os
from collections.abc import Collection, Iterable, Mapping, Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppvae.wording import NAMES, listed, shown, with_article


class Problem(NamedTuple):
    """What is wrong with a value: it is of the wrong type (TypeError), or out of range (ValueError)."""

    error: type[Exception]
    value: Any
    rule: "Rule"
    remedy: str = ""
    where: str = ""

    def __str__(self) -> str:
        expected = listed(self.rule.alternatives(self.value))
        return f"found {shown(self.value)}, expected {expected}" + f"; {self.remedy}" * bool(self.remedy)


class Rule:
    """What a value may be."""

    @property
    def expected(self) -> str:
        """What can be meant, in words."""
        raise NotImplementedError

    def alternatives(self, value: Any) -> list[str]:
        """The kinds of what can be meant, where this value cannot."""
        return [self.expected]

    def problem(self, value: Any) -> Problem | None:
        """What is wrong with a value, if anything is."""
        raise NotImplementedError

    def wrong_type(self, value: Any, remedy: str = "") -> Problem:
        return Problem(TypeError, value, self, remedy)

    def out_of_range(self, value: Any, remedy: str = "") -> Problem:
        return Problem(ValueError, value, self, remedy)


MOST_INT = 2**63 - 1
FLOATS, BOOLS = (float, np.floating), (bool, np.bool_)


class Unchecked(Rule):
    """All passes: the function itself has more to say."""

    def problem(self, value: Any) -> Problem | None:
        return None


@dataclass(frozen=True)
class Number(Rule):
    """A real number within bounds, finite unless said otherwise; a bool is none, NumPy's are."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    finite: bool = True
    said: str = ""

    @property
    def kind(self) -> str:
        return "a finite number" if self.finite else "a number"

    @property
    def expected(self) -> str:
        if self.said:
            return self.said
        if self.at_least is not None and self.at_most is not None:
            said = f"{self.at_least} to {self.at_most}"
        elif self.at_least == 0:
            said = "0 or more"
        else:
            bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
            said = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        return f"{said}, {self.kind}" if said else self.kind

    def problem(self, value: Any) -> Problem | None:
        if type(value) not in (int, float) and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
            return self.wrong_type(value)
        if type(value) is int and abs(value) > MOST_INT:
            return Problem(ValueError, value, self, "as a whole number it is too large to compute with; pass a float")
        return None if self.holds(value) else self.out_of_range(value)

    def holds(self, value: Any) -> bool:
        """Whether a number lies within the bounds; NaN does not."""
        return bool(
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.finite or type(value) is int or math.isfinite(value))
        )


@dataclass(frozen=True)
class Whole(Number):
    """A whole number; one above `limit` is a slip, and would hang or exhaust the memory."""

    limit: int = 10**9

    @property
    def kind(self) -> str:
        return "a whole number"

    def problem(self, value: Any) -> Problem | None:
        if type(value) is int:
            return None if self.holds(value) else self.out_of_range(value)
        if isinstance(value, FLOATS):
            is_whole = math.isfinite(value) and value == int(value) and self.holds(value)
            return self.out_of_range(value, f"pass {int(value)}" if is_whole else "")
        return super().problem(value)

    def holds(self, value: Any) -> bool:
        return super().holds(value) and value <= self.limit

    def alternatives(self, value: Any) -> list[str]:
        too_much = isinstance(value, int | np.integer) and value > self.limit
        return [f"at most {self.limit:,}" if too_much and self.at_most is None else self.expected]


@dataclass(frozen=True)
class OneOf(Rule):
    """One of some names: a tuple, or a registry that may grow."""

    choices: Collection[Any]

    @property
    def expected(self) -> str:
        return listed(self.alternatives(None))

    def alternatives(self, value: Any) -> list[str]:
        names = [repr(choice) for choice in self.choices]
        is_short = len(names) <= 3 and not isinstance(self.choices, Mapping)
        return names if is_short else [f"one of {', '.join(names)}"]

    def problem(self, value: Any) -> Problem | None:
        if not isinstance(value, str | bool):
            return self.out_of_range(value)
        if any(value is choice or (value == choice and isinstance(value, str)) for choice in self.choices):
            return None
        close = get_close_matches(str(value).lower(), [name for name in self.choices if isinstance(name, str)], 1)
        return self.out_of_range(value, f"did you mean {close[0]!r}?" if close else "")


@dataclass(frozen=True)
class Instance(Rule):
    """An object of a class, and not a class itself."""

    cls: type

    @property
    def expected(self) -> str:
        return NAMES.get(self.cls) or with_article(self.cls.__name__)

    def problem(self, value: Any) -> Problem | None:
        is_class = isinstance(value, type)
        if not is_class and isinstance(value, self.cls):
            return None
        call = is_class and self.cls in value.__mro__
        return self.wrong_type(value, f"call the class, as in {value.__name__}(...)" if call else "")


class Flag(Rule):
    """True or False, NumPy's too."""

    @property
    def expected(self) -> str:
        return "True or False"

    def alternatives(self, value: Any) -> list[str]:
        return ["True", "False"]

    def problem(self, value: Any) -> Problem | None:
        return None if isinstance(value, BOOLS) else self.wrong_type(value)


@dataclass(frozen=True)
class Subclass(Rule):
    """A class itself, not an object of it."""

    cls: type

    @property
    def expected(self) -> str:
        return f"a class of {self.cls.__name__}s"

    def problem(self, value: Any) -> Problem | None:
        if isinstance(value, type) and issubclass(value, self.cls):
            return None
        return self.wrong_type(value, "pass the class, without calling it" if isinstance(value, self.cls) else "")


@dataclass(frozen=True)
class Function(Rule):
    """Something to call, with `takes` positional arguments; with `made`, not a class, which would take them itself."""

    what: str = "a function"
    made: bool = False
    takes: int | None = None

    @property
    def expected(self) -> str:
        return self.what

    def problem(self, value: Any) -> Problem | None:
        is_class = isinstance(value, type)
        if not callable(value) or (self.made and is_class):
            return self.wrong_type(value, f"call the class, as in {value.__name__}()" if self.made and is_class else "")
        return None if self.takes is None else self._unlike(value, self.takes)

    def _unlike(self, function: Any, number: int) -> Problem | None:
        """That it cannot be called with so many arguments."""
        called = function.forward if isinstance(function, torch.nn.Module) else function
        try:
            inspect.signature(called).bind(*range(number))
        except TypeError as error:
            count = f"{number} argument{'s' * (number != 1)}"
            return self.wrong_type(function, f"it cannot be called with {count} ({error})")
        except ValueError:  # it is written in C, and Python does not know its arguments
            return None
        return None


class FilePath(Rule):
    """Where a file is, or is to be."""

    @property
    def expected(self) -> str:
        return "a file's path, such as 'run.safetensors'"

    def problem(self, value: Any) -> Problem | None:
        if not isinstance(value, str | os.PathLike) or isinstance(value, type):
            return self.wrong_type(value)
        named = str(os.fspath(value))
        return None if named and "\0" not in named else self.out_of_range(value)


@dataclass(frozen=True)
class Elements(Rule):
    """A sequence, an array or the like, of things of one kind."""

    of: Rule | None
    at_least: int = 0
    unordered: bool = False

    @property
    def expected(self) -> str:
        number = f" of {self.at_least} or more" if self.at_least else ""
        return f"a sequence{number}" + (f", each {self.of.expected}" if self.of else "")

    def problem(self, value: Any) -> Problem | None:
        if not is_sequence(value) and not (self.unordered and isinstance(value, AbstractSet)):
            return self.wrong_type(value)
        if len(value) < self.at_least:
            return self.out_of_range(value)
        return first_problem((f"[{i}]", self.of, element) for i, element in enumerate(value))


@dataclass(frozen=True)
class Places(Rule):
    """A sequence of fixed length, with a rule for each place."""

    rules: tuple[Rule | None, ...]
    said: str = ""

    @property
    def expected(self) -> str:
        return self.said or f"a sequence of {len(self.rules)}"

    def problem(self, value: Any) -> Problem | None:
        if not is_sequence(value):
            return self.wrong_type(value)
        if len(value) != len(self.rules):
            return self.out_of_range(value)
        return first_problem((f"[{i}]", rule, v) for i, (rule, v) in enumerate(zip(self.rules, value, strict=True)))


@dataclass(frozen=True)
class Entries(Rule):
    """A dict, or another mapping, of things of one kind by keys of one kind."""

    keys: Rule | None
    values: Rule | None
    at_least: int = 0

    @property
    def expected(self) -> str:
        number = f" of {self.at_least} or more" if self.at_least else ""
        return f"a dict{number}" + (f", each value {self.values.expected}" if self.values else "")

    def problem(self, value: Any) -> Problem | None:
        if not isinstance(value, Mapping):
            return self.wrong_type(value)
        if len(value) < self.at_least:
            return self.out_of_range(value)
        of_keys = first_problem((f", key {shown(key)}", self.keys, key) for key in value)
        return of_keys or first_problem((f"[{shown(key)}]", self.values, v) for key, v in value.items())


@dataclass(frozen=True)
class AnyOf(Rule):
    """What one of several rules lets pass."""

    rules: tuple[Rule, ...]

    @property
    def expected(self) -> str:
        return listed(self.alternatives(None))

    def problem(self, value: Any) -> Problem | None:
        problems = []
        for rule in self.rules:
            if (found := rule.problem(value)) is None:
                return None
            problems.append(found)
        inside = next((p for p in problems if p.where), None)
        if inside is not None:
            return inside
        of_its_type = [p for p in problems if p.error is ValueError]
        nearest = next((p for p in [*of_its_type, *problems] if p.remedy), (of_its_type or problems)[0])
        return nearest._replace(rule=self)

    def alternatives(self, value: Any) -> list[str]:
        kinds = dict.fromkeys(kind for rule in self.rules for kind in rule.alternatives(value))
        return sorted(kinds, key=lambda kind: kind == "None")


class CountOrData(Whole):
    """How many, where it is a number; data are checked later, where they are taken in."""

    def problem(self, value: Any) -> Problem | None:
        return super().problem(value) if isinstance(value, numbers.Number | str | None) else None


@dataclass(frozen=True)
class Numbers(Rule):
    """A tensor of real numbers; of `rows` data points or more."""

    finite: bool = False
    rows: int = 0

    @property
    def expected(self) -> str:
        kind = "a tensor of finite numbers" if self.finite else "a tensor of real numbers"
        return f"{kind}, {self.rows} row{'s' * (self.rows > 1)} or more" if self.rows else kind

    def problem(self, value: Any) -> Problem | None:
        if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
            return self.wrong_type(value)
        if self.rows and (value.dim() == 0 or len(value) < self.rows):
            return self.out_of_range(value)
        if self.finite and not value.isfinite().all():
            row = (~value.isfinite()).nonzero()[0].tolist()
            return Problem(ValueError, value[tuple(row)].item(), self, "remove or impute it", f", at index {row}")
        return None


class Mask(Rule):
    """A tensor that is true where something holds, for each data point."""

    expected = "a mask, a tensor of bools"

    def problem(self, value: Any) -> Problem | None:
        if not isinstance(value, Tensor) or value.dtype != torch.bool:
            return self.wrong_type(value)
        return None if value.dim() == 1 else self.out_of_range(value)


def first_problem(parts: Iterable[tuple[str, Rule | None, Any]]) -> Problem | None:
    """The first problem among parts of a value, each with its place."""
    for where, rule, part in parts:
        if rule is not None and (found := rule.problem(part)) is not None:
            return found._replace(where=where + found.where)
    return None


def is_sequence(value: Any) -> bool:
    """Whether a value has elements in an order: a list, a tuple, a range, an array, a tensor."""
    no_sequence = isinstance(value, str | bytes | Mapping | AbstractSet | type)
    return isinstance(value, Collection) and not no_sequence and getattr(value, "ndim", 1) > 0
