"""Malformed calls of all public callables: a valid call with one argument replaced, and what comes of it.

`PYTHONPATH=.:tests python -m support.malformed_calls` prints the counts; `--show obscure` lists
these calls.
"""

import argparse
import contextlib
import hashlib
import inspect
import pickle
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from support.malformed_values import Call, Kind
from support.public_calls import CALLS
from support.public_comparison import COMPARISON
from support.public_discrete import DISCRETE
from support.public_labels import LABELS
from support.public_models import MODELS
from support.public_multimodal import LEDGERS, MULTIMODAL
from support.public_sequences import ENVIRONMENTS, SEQUENCES
from support.public_views import VIEWS
from torch import nn

import ppvae

PLACES = {
    "": ppvae,
    "models.": ppvae.models,
    "inference.": ppvae.inference,
    "datasets.": ppvae.datasets,
    "networks.": ppvae.networks,
    "pictures.": ppvae.pictures,
    "plots.": ppvae.plots,
}
"""Where public names are, by the prefix that they have in the table."""

TABLE: dict[str, Call] = (
    CALLS
    | COMPARISON
    | VIEWS
    | LEDGERS
    | ENVIRONMENTS
    | {f"models.{name}": call for name, call in (MODELS | DISCRETE | MULTIMODAL | LABELS | SEQUENCES).items()}
)
SECONDS = 20
"""After which a call is said to hang."""

CLASSES = ("clear", "plain", "obscure", "accepted", "hangs", "works")
ROOT = Path(ppvae.__file__).parents[1].resolve()


@dataclass(frozen=True)
class Case:
    """One malformed call: of `name`, with `argument` replaced by a value of this label."""

    name: str
    argument: str
    label: str

    @property
    def kind(self) -> Kind:
        return TABLE[self.name].arguments[self.argument]


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    Attributes:
        verdict: one of `CLASSES`.
        said: the error's type and message, or what was returned.
        where: the file and line that raised it.
        left: what of the global state, or of the pair, was left changed.
    """

    verdict: str
    said: str
    where: str = ""
    left: tuple[str, ...] = ()


def cases() -> list[Case]:
    return [
        Case(name, argument, label)
        for name, call in TABLE.items()
        for argument, kind in call.arguments.items()
        for label in kind.malformed
    ]


def target(name: str) -> Callable:
    """The callable of that name; of a method, the function of the class, or of the owner that the table makes."""
    if (owner := TABLE[name].owner) is not None:
        return getattr(owner(), name.rpartition(".")[2])
    found: Any = ppvae
    for part in name.split("."):
        found = getattr(found, part)
    return found


def arguments(name: str) -> dict[str, Any]:
    call = TABLE[name]
    return {argument: kind.valid() for argument, kind in call.arguments.items()} | {
        argument: make() for argument, make in call.fixed.items()
    }


def check_valid(name: str) -> None:
    """Makes the call as it is in the table."""
    with contextlib.chdir(tempfile.gettempdir()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target(name)(**arguments(name))
    plt.close("all")


def run(case: Case) -> Outcome:
    """Makes the call, in a folder of its own."""
    given = arguments(case.name)
    function = target(case.name)
    malformed = case.kind.malformed[case.label]()
    given[case.argument] = malformed
    involved = [v for v in (*given.values(), getattr(function, "__self__", None)) if isinstance(v, nn.Module)]
    with contextlib.chdir(tempfile.gettempdir()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, own = global_state(), [content(module) for module in involved]
        outcome = _called(case, function, given)
        after = global_state()
        left = [name for name, value in before.items() if after[name] != value and not _drawn(name, given)]
        plt.close("all")
        if outcome.verdict == "works":
            left = [name for name in left if name != "open figures"]
        if outcome.verdict not in ("works", "accepted"):
            left += [type(module).__name__ for module, was in zip(involved, own, strict=True) if content(module) != was]
    return Outcome(outcome.verdict, outcome.said, outcome.where, tuple(left))


def _drawn(name: str, given: dict[str, Any]) -> bool:
    """Whether a generator may have moved: where no seed was given, draws are the caller's generators'."""
    return name == "torch's generator" and not isinstance(given.get("seed"), int)


def _called(case: Case, function: Callable, given: dict[str, Any]) -> Outcome:
    try:
        with _time_limit(SECONDS):
            result = function(**given)
            if inspect.isgenerator(result):
                list(result)
    except TimeoutError:
        return Outcome("hangs", "")
    except Exception as error:
        return _judged(case, error)
    meant = case.label in case.kind.unclear
    return Outcome("works" if meant else "accepted", type(result).__name__)


def _judged(case: Case, error: Exception) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    said = f"{type(error).__name__}: {str(error)[:300]}"
    own = [frame for frame in frames if _is_ours(frame.filename)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    if _is_clear(case, error) and _is_ours(frames[-1].filename):
        return Outcome("clear", said, where)
    if isinstance(error, TypeError) and len(own) <= 1 and re.search(r"\w+\(\) (got|missing|takes)", str(error)):
        return Outcome("plain", said, where)
    if own:
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno} <- {where}"
    return Outcome("obscure", said, where)


def _is_ours(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("ppvae", "models", "inference")


def _is_clear(case: Case, error: Exception) -> bool:
    """Whether an error has the form of ours: what is wrong, what was found, and what was expected."""
    message = str(error)
    if isinstance(error, OSError) and not isinstance(error, ValueError):
        return bool(error.filename or "path" in message)
    if isinstance(error, NotImplementedError):
        return "use " in message
    if isinstance(error, ppvae.CheckpointError | ppvae.NonFiniteError):
        return "found" in message and "expected" in message
    named = any(re.search(rf"\b{re.escape(word.rstrip(':'))}", message) for word in (case.argument, *case.kind.names))
    return named and "found" in message and "expected" in message and len(message) < 1500


class _Timeout(BaseException):
    pass


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Timeout

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Timeout:
        raise TimeoutError from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _digest(value: Any) -> str:
    return hashlib.md5(pickle.dumps(value)).hexdigest()


def content(module: nn.Module) -> dict[str, bytes]:
    """What training and measuring must not change unasked: parameters, buffers, mode."""
    tensors = {name: t.detach().cpu().numpy().tobytes() for name, t in module.state_dict().items()}
    return tensors | {"training": str(module.training).encode()}


def global_state() -> dict[str, Any]:
    """What no call may leave changed, by name."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "torch's generator": _digest(torch.get_rng_state().numpy()),
        "NumPy's generator": _digest(np.random.get_state()),
        "Pyro's stack": len(_PYRO_STACK),
        "Pyro's parameters": sorted(pyro.get_param_store().keys()),
        "checks of distributions": torch.distributions.Distribution._validate_args,
        "matplotlib's settings": dict(mpl.rcParams),
        "open figures": plt.get_fignums(),
        "warning filters": list(warnings.filters),
        "default device": torch.get_default_device(),
    }


def public_names() -> dict[str, Any]:
    """All public functions and classes by their names in the table; `ppvae.fit` and `ppvae.inference.fit` are one."""
    found: dict[str, Any] = {}
    for prefix, module in PLACES.items():
        for name in getattr(module, "__all__", None) or _own_names(module):
            value = getattr(module, name)
            if callable(value) and not any(value is other for other in found.values()):
                found[prefix + name] = value
    return found


def _own_names(module: Any) -> list[str]:
    """What is defined in a module, or in the part of it that has a file of its own."""
    homes = (module.__name__, "ppvae.views.diagnostic_plots")
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") in homes
    ]


def public_methods() -> dict[str, Any]:
    """The methods of public classes, each where it is defined, by `Class.method`."""
    found = {}
    for cls in public_names().values():
        for base in cls.__mro__ if isinstance(cls, type) else ():
            if base.__module__.startswith("ppvae"):
                for name, value in vars(base).items():
                    if not name.startswith("_") and inspect.isroutine(value):
                        found[f"{base.__name__}.{name}"] = getattr(base, name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--show", nargs="*", default=[], choices=CLASSES, help="verdicts whose calls are listed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in TABLE:
        if options.only in name:
            check_valid(name)
    plt.close("all")
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    left: list[tuple[Case, Outcome]] = []
    for case in cases():
        if options.only not in case.name:
            continue
        outcome = run(case)
        counts[outcome.verdict] += 1
        if outcome.verdict == "obscure":
            places[outcome.where] += 1
        if outcome.left:
            left.append((case, outcome))
        if outcome.verdict in options.show:
            print(
                outcome.verdict,
                case.name,
                case.argument,
                f"[{case.label}]",
                outcome.where,
                outcome.said[:200].replace("\n", " "),
                flush=True,
            )
    for case, outcome in left:
        print("left changed:", case, outcome.left, outcome.verdict)
    judged = sum(counts[name] for name in CLASSES if name != "works")
    print(f"{sum(counts.values())} calls, {judged} judged:", ", ".join(f"{counts[name]} {name}" for name in CLASSES))
    print(f"obscure in {len(places)} places; {len(left)} calls left something changed")


if __name__ == "__main__":
    sys.exit(main())
