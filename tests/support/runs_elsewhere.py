"""What runs on another device than the CPU, and whether it gives there what it gives on the CPU.

`python -m support.runs_elsewhere pairs|calls|cases|mixed [NAME ...]`, from `tests`, prints JSON: of each case "same"
("runs" of a call, whose results are not compared), or what is wrong. The pairs are those of the zoo, the calls those of
the tables of public calls, the cases those of `cases_elsewhere`. Data stay on the CPU.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from support import another_device
from support.cases_elsewhere import CASES, Place
from support.malformed_calls import TABLE, arguments, target
from support.zoo import ZOO
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import ppvae

QUIET = {"seed": 0, "progress": False}
MEASURES: dict[str, Callable[[ppvae.Pair, Any], Any]] = {
    "check": lambda pair, x: pair.check(x),
    "log_weights": lambda pair, x: pair.log_weights(x, 3).log_w,
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 3, **QUIET).estimate,
    "log_evidence": lambda pair, x: ppvae.log_evidence(pair, x, "iwae", num_particles=20, **QUIET).estimate,
    "elbo_terms": lambda pair, x: ppvae.elbo_terms(pair, x, 3, **QUIET).elbo.estimate,
    "encode": lambda pair, x: encoded(pair.encode(x)),
    "sample": lambda pair, x: pair.sample(x),
    "reconstruct": lambda pair, x: pair.reconstruct(x),
    "fit": lambda pair, x: list(ppvae.fit(pair, x, steps=3, **QUIET).pair.state_dict().values()),
}
"""What is tried with each pair; its result is compared."""
MIXED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda there, here: there + here,
    "in place": lambda there, here: here.add_(there),
    "index": lambda there, here: here[there.long()],
}
"""What no device takes."""
REFUSED = (ppvae.ContractError, NotImplementedError)
"""On the CPU, of calls that a pair is not for."""


def encoded(found: Any) -> list[Tensor]:
    each = found.values() if isinstance(found, dict) else [found]
    return [t for encoding in each for t in (encoding.mean, encoding.std)]


def numbers(found: Any) -> list[Tensor]:
    told = [torch.as_tensor(leaf) for leaf in tree_leaves(found) if isinstance(leaf, Tensor | np.ndarray | float)]
    return [t.detach().cpu() for t in told]


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> str:
    """In words; empty if there is none."""
    for a, b in zip(expected, found, strict=True):
        try:
            torch.testing.assert_close(b, a, equal_nan=True)
        except AssertionError as error:
            return str(error)
    return ""


def measured(name: str, measure: str, *, elsewhere: bool) -> list[Tensor]:
    torch.manual_seed(0)
    pair, x = ZOO[name].make()
    pair = another_device.moved(pair) if elsewhere else pair
    torch.manual_seed(1)
    return numbers(MEASURES[measure](pair, x))


def pair_elsewhere(name: str) -> str:
    for measure in MEASURES:
        try:
            expected = measured(name, measure, elsewhere=False)
        except REFUSED:
            continue
        if wrong := difference(expected, measured(name, measure, elsewhere=True)):
            return f"{measure}: {wrong}"
    return "same"


def case_elsewhere(name: str) -> str:
    told = []
    for elsewhere in (False, True):
        torch.manual_seed(1)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            told.append(numbers(CASES[name](Place(elsewhere))))
    return difference(*told) or "same"


def given(value: Any) -> Any:
    """An argument, whose modules are moved."""
    if isinstance(value, nn.Module):
        return another_device.moved(value)
    if type(value) in (list, tuple):
        return type(value)(map(given, value))
    return {k: given(v) for k, v in value.items()} if type(value) is dict else value


def call_elsewhere(name: str) -> str:
    target(name)(**arguments(name))
    call = TABLE[name]
    function = target(name) if call.owner is None else getattr(given(call.owner()), name.rpartition(".")[2])
    kwargs = {argument: given(value) for argument, value in arguments(name).items()}
    function(**kwargs | ({"device": None} if "device" in kwargs else {}))
    plt.close("all")
    return "runs"


def mixed_elsewhere(name: str) -> str:
    try:
        MIXED[name](torch.ones(3, device="elsewhere"), torch.ones(3))
    except RuntimeError as error:
        return "refused" if "to be on the same device" in str(error) else str(error)
    return "accepted"


def main() -> None:
    kind, *names = sys.argv[1:]
    library = another_device.set_up()
    cases, run = KINDS[kind]
    told = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in names or cases:
            try:
                told[name] = run(name)
            except Exception as error:
                told[name] = f"{type(error).__name__}: {error}"
    del library
    print(json.dumps(told))


KINDS: dict[str, tuple[Iterable[str], Callable[[str], str]]] = {
    "pairs": (ZOO, pair_elsewhere),
    "calls": (TABLE, call_elsewhere),
    "cases": (CASES, case_elsewhere),
    "mixed": (MIXED, mixed_elsewhere),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["MPLBACKEND"] = "Agg"
    torch.set_default_dtype(torch.float64)
    main()
