"""Rules for arguments, said by annotations: what passes, what is refused, and in which words."""

import inspect
import math
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ppvae
from ppvae.arguments import (
    Count,
    File,
    Finite,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Real,
    Schedule,
    Seed,
    Size,
    Sizes,
    Spread,
    checked,
    rule_of,
)
from ppvae.rules import AnyOf, Number, OneOf
from ppvae.wording import shown, with_article

Either = TypeVar("Either", float, Tensor)


class Base:
    pass


@runtime_checkable
class Sized(Protocol):
    size: int


class Boxed:
    size = 3


MODULE = nn.Linear(1, 1)

PASS = {
    "count": (Count, [1, np.int64(3), np.uint8(1), 10**9]),
    "seed": (Seed | None, [0, 2**63 - 1, None]),
    "whole": (int, [-3, 0]),
    "positive": (Positive, [1, 0.1, np.float32(0.5), 1e300]),
    "not negative": (NonNegative, [0, 0.0]),
    "fraction": (Fraction, [0, 1, 0.5]),
    "number": (float, [math.inf, math.nan, -1, True + 0]),
    "flag": (bool, [True, np.True_]),
    "choice": (Literal["a", "b"], ["a", np.str_("b")]),
    "choice or flag": (Literal["auto", True, False], ["auto", True, False]),
    "registry": (Annotated[str, OneOf({"a": 1})], ["a"]),
    "instance": (nn.Module, [MODULE]),
    "protocol": (Sized, [Boxed()]),
    "class": (type[nn.Module], [nn.Tanh]),
    "function": (Callable[[int], int], [abs, lambda x: x, int]),
    "schedule": (Schedule, [abs, ppvae.LinearWarmup(3)]),
    "sequence": (Sequence[Size], [[1, 2], (3,), (), range(1, 4), np.array([1, 2]), torch.Size([2])]),
    "sizes": (Sizes, [[1], torch.Size([2, 3])]),
    "places": (tuple[Size, Size], [(1, 2), [1, 2]]),
    "collection": (Collection[str], [{"a"}, ["a"]]),
    "mapping": (Mapping[str, Tensor], [{}, {"a": torch.zeros(1)}]),
    "file": (File | None, ["a", Path("a"), None]),
    "finite": (Finite, [torch.zeros(2), torch.ones(1, dtype=torch.long)]),
    "either": (Either, [1.0, torch.zeros(2)]),
    "anything": (Any, [object()]),
    "anything in a union": (int | Any, [object()]),
    "tuple or tensor": (Tensor | tuple[Any, ...], [(object(),), torch.zeros(1)]),
}


@pytest.mark.parametrize("name", PASS)
def test_what_can_be_meant_passes(name):
    hint, values = PASS[name]
    rule = rule_of(hint)
    assert [value for value in values if rule is not None and rule.problem(value) is not None] == []


WHOLE = "at least 1, a whole number"
REFUSED = [
    (Count, 0, ValueError, f"x: found 0, expected {WHOLE}"),
    (Count, "3", TypeError, f"x: found '3', expected {WHOLE}"),
    (Count, True, TypeError, f"x: found True, expected {WHOLE}"),
    (Count, 2.0, ValueError, f"x: found 2.0, expected {WHOLE}; pass 2"),
    (Count, 2.5, ValueError, f"x: found 2.5, expected {WHOLE}"),
    (Count, np.float64(math.nan), ValueError, f"expected {WHOLE}"),
    (Count, torch.tensor(3), TypeError, f"x: found a Tensor of shape [] and torch.int64, expected {WHOLE}"),
    (Count, 10**9 + 1, ValueError, "x: found 1000000001, expected at most 1,000,000,000"),
    (Count, 10**5000, ValueError, "x: found about 10^5000, expected at most 1,000,000,000"),
    (Natural, -1, ValueError, "x: found -1, expected 0 or more, a whole number"),
    (Seed | None, 1.5, ValueError, "x: found 1.5, expected 0 or more, a whole number or None"),
    (Seed, 2**63, ValueError, "expected at most 9,223,372,036,854,775,807"),
    (Positive, 0, ValueError, "x: found 0, expected above 0, a finite number"),
    (Positive, math.nan, ValueError, "x: found nan, expected above 0, a finite number"),
    (Positive, math.inf, ValueError, "x: found inf, expected above 0, a finite number"),
    (Real, 10**30, ValueError, "pass a float"),
    (Real, 1j, TypeError, "x: found 1j, expected a finite number"),
    (Fraction, 1.5, ValueError, "x: found 1.5, expected 0 to 1, a finite number"),
    (Annotated[float, Number(above=0, said="a decay")], 0, ValueError, "x: found 0, expected a decay"),
    (bool, 1, TypeError, "x: found 1, expected True or False"),
    (Literal["guide", "prior"], "gide", ValueError, "expected 'guide' or 'prior'; did you mean 'guide'?"),
    (Literal["guide", "prior"], "Prior", ValueError, "did you mean 'prior'?"),
    (Literal["guide", "prior"], [1], ValueError, "x: found [1], expected 'guide' or 'prior'"),
    (Literal["auto", True, False], 1, ValueError, "x: found 1, expected 'auto', True or False"),
    (Annotated[str, OneOf({"a": 1, "b": 2})], "c", ValueError, "expected one of 'a', 'b'"),
    (nn.Module, nn.Linear, TypeError, "found the class Linear, expected a torch.nn.Module; call the class"),
    (nn.Module, None, TypeError, "x: found None, expected a torch.nn.Module"),
    (
        ppvae.Pair,
        MODULE,
        TypeError,
        "expected a Pair, as Pair.of(model, guide, example=x[:10]) makes of Pyro's functions",
    ),
    (ppvae.AIS | None, ppvae.AIS, TypeError, "expected an AIS or None; call the class, as in AIS(...)"),
    (Sized, Boxed, TypeError, "x: found the class Boxed, expected a Sized"),
    (type[nn.Module], MODULE, TypeError, "expected a class of Modules; pass the class, without calling it"),
    (type[nn.Module], int, TypeError, "x: found the class int, expected a class of Modules"),
    (Callable[..., int], 3, TypeError, "x: found 3, expected a function"),
    (Schedule, ppvae.LinearWarmup, TypeError, "call the class, as in LinearWarmup()"),
    (Sequence[Size], "12", TypeError, f"x: found '12', expected a sequence, each {WHOLE}"),
    (Sequence[Size], {1}, TypeError, "x: found {1}, expected a sequence"),
    (Sequence[Size], [1, 0], ValueError, f"x[1]: found 0, expected {WHOLE}"),
    (Sequence[Sequence[Size]], [[1], ["a"]], TypeError, f"x[1][0]: found 'a', expected {WHOLE}"),
    (Sizes, [], ValueError, f"x: found [], expected a sequence of 1 or more, each {WHOLE}"),
    (tuple[Size, Size], [1], ValueError, "x: found [1], expected a sequence of 2"),
    (tuple[Size, Size], (1, -1), ValueError, f"x[1]: found -1, expected {WHOLE}"),
    (Sequence[Size], torch.tensor(1.0), TypeError, "expected a sequence"),
    (Mapping[str, Tensor], [], TypeError, "x: found [], expected a dict, each value a tensor"),
    (Mapping[str, Tensor], {1: torch.zeros(1)}, TypeError, "x, key 1: found 1, expected a string"),
    (Mapping[str, Tensor], {"a": 1}, TypeError, "x['a']: found 1, expected a tensor"),
    (File, "", ValueError, "x: found '', expected a file's path"),
    (File, b"x", TypeError, "x: found b'x', expected a file's path"),
    (Finite, torch.tensor([0.0, math.nan]), ValueError, "x, at index [1]: found nan, expected a tensor of finite"),
    (Finite, torch.zeros(2, dtype=torch.complex64), TypeError, "expected a tensor of finite numbers"),
    (Spread, torch.zeros(1, 3), ValueError, "expected a tensor of finite numbers, 2 rows or more"),
    (Either, "1", TypeError, "x: found '1', expected a number or a tensor"),
]


@pytest.mark.parametrize(("hint", "value", "error", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_meant_is_refused_in_the_words_of_the_house(hint, value, error, message):
    def function(x):
        raise AssertionError("the body ran")

    function.__annotations__ = {"x": hint}
    for call in (lambda: checked(function)(value), lambda: checked(function)(x=value)):
        with pytest.raises(error) as raised:
            call()
        assert message in str(raised.value)
        assert str(raised.value).startswith("x")


def test_no_whole_tensor_is_printed():
    for value in (torch.zeros(10**5), np.zeros(10**5), [torch.zeros(10**5)], [0] * 10**5, "a" * 10**5, {"a": MODULE}):
        assert len(shown(value)) < 90
    layers = {f"layer {i}": torch.nn.Sequential(torch.nn.Linear(2, 2)) for i in range(20)}
    assert shown(layers) == "a dict of 20"
    assert shown({"x": torch.zeros(3)}) == "a dict of 1"
    assert shown({"lr": 0.1}) == "{'lr': 0.1}"


def test_names_have_articles():
    assert [with_article(name) for name in ("ELBO", "Fit", "MLP", "VAE", "Encoding", "StepOptions")] == [
        "an ELBO",
        "a Fit",
        "an MLP",
        "a VAE",
        "an Encoding",
        "StepOptions",
    ]


@checked
def draw(num: Count, /, kind: Literal["a", "b"] = "a", *rest: Any, seed: Seed | None = None, **more: Any) -> str:
    """What it does."""
    return f"{num} {kind} {rest} {seed} {more}"


def test_a_checked_function_looks_and_pickles_like_itself():
    assert draw.__doc__ == "What it does."
    assert list(inspect.signature(draw).parameters) == ["num", "kind", "rest", "seed", "more"]
    assert draw.__wrapped__(0) == "0 a () None {}"
    assert pickle.loads(pickle.dumps(draw)) is draw
    assert draw(1, "b", 2, seed=3, other=4) == "1 b (2,) 3 {'other': 4}"


def test_help_shows_types_and_not_the_rules():
    assert "Annotated" not in str(inspect.signature(ppvae.fit))
    parameters = inspect.signature(ppvae.log_evidence).parameters
    assert parameters["num_particles"].annotation is int
    assert parameters["max_seconds"].annotation == (float | None)


def test_missing_and_unexpected_arguments_are_pythons_own_errors():
    with pytest.raises(TypeError, match=r"draw\(\) missing 1 required positional argument"):
        draw()
    with pytest.raises(TypeError, match=r"fit\(\) got an unexpected keyword argument 'epoch'"):
        ppvae.fit(ppvae.models.LinearVAE(3, 2), torch.zeros(4, 3), epoch=3)


@checked
@dataclass(frozen=True)
class Settings:
    num: Count = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(name.upper() for name in self.names))


@checked
@dataclass(frozen=True)
class MoreSettings(Settings):
    rate: Positive = 1.0


def test_a_dataclass_is_checked_before_its_own_checks():
    with pytest.raises(TypeError, match=r"names\[0\]: found 3, expected a string"):
        Settings(names=(3,))
    with pytest.raises(ValueError, match="num: found 0"):
        replace(Settings(), num=0)
    with pytest.raises(ValueError, match="rate: found 0"):
        MoreSettings(2, rate=0)
    made = MoreSettings(2, ("a",), 0.5)
    assert made == pickle.loads(pickle.dumps(made)) == MoreSettings(2, ("a",), 0.5)
    assert list(inspect.signature(MoreSettings).parameters) == ["num", "names", "rate"]


def test_a_registry_that_has_grown_is_known():
    registry = {"a": 1}
    rule = OneOf(registry)
    assert rule.problem("b") is not None
    registry["b"] = 2
    assert rule.problem("b") is None


def test_none_costs_no_other_check():
    """It is the default of most options."""
    rule = rule_of(Seed | None)
    assert isinstance(rule, AnyOf)
    assert rule.rules[0].problem(None) is None


def test_annotations_of_all_checked_callables_can_be_read():
    from support.malformed_calls import TABLE, public_names

    for name, function in public_names().items():
        if name in TABLE:
            function = function.__init__ if isinstance(function, type) else function
            assert hasattr(function, "__wrapped__"), f"{name} is not checked"


def test_a_module_takes_what_its_forward_takes():
    """That of `__call__` is anything."""
    with pytest.raises(TypeError, match=r"objective: found MSELoss, .*; it cannot be called with 3 arguments"):
        ppvae.Trainer(ppvae.models.LinearVAE(4, 2), nn.MSELoss())


@pytest.mark.parametrize(("at", "found"), [(-1, "-1"), ("3", "'3'"), (None, "None")])
def test_how_many_or_a_batch(at, found):
    with pytest.raises((TypeError, ValueError), match=f"at: found {found}, .* a whole number, or a batch"):
        ppvae.models.LinearVAE(4, 2).sample(at)
    with pytest.raises(ValueError, match=r"^at: found {'0': 'int'}, expected at least one tensor"):
        ppvae.models.LinearVAE(4, 2).sample([3])
