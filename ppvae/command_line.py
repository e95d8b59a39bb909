"""The command line: data sets, the ledger of a pair, and pairs compared, without a line of Python."""

import argparse
import importlib
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from ppvae._version import __version__

if TYPE_CHECKING:  # torch takes a second, which `ppvae --help` need not wait for
    from ppvae.pair import Pair

PAIR = (
    "MODULE:NAME or FILE.py:NAME, a pair or a function without arguments that makes one; or a file that ppvae.save "
    "wrote of one of ppvae's own"
)
DATA = (
    "held-out data: .npy, .csv (numbers, with a header), or .npz (an array, or several by the names of the model's "
    "arguments)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `ppvae` with these arguments, by default those of the process.

    Returns:
        0. What is wrong with the arguments, or with what they name, ends the process with status 2 and a message.

    Example:
        >>> main(["datasets"])  # doctest: +ELLIPSIS
        | name       | shape       | train / validation / test | values ...
        0
    """
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        from ppvae.rules import OneOf

        if (problem := OneOf(tuple(COMMANDS)).problem(given[0])) is not None:
            parser.error(f"command: {problem}")
    asked = parser.parse_args(given)
    try:
        COMMANDS[asked.command](asked)
    except (TypeError, ValueError, OSError, NotImplementedError) as error:  # as the package's own errors are
        sys.stderr.write(f"ppvae {asked.command}: error: {error}\n")
        raise SystemExit(2) from error
    return 0


def datasets(asked: argparse.Namespace) -> None:
    """Prints the table of data sets."""
    from ppvae.datasets import load

    lines = (inspect.getdoc(load) or "").splitlines()
    print("\n".join(line for line in lines if line.startswith("|")))


def gap(asked: argparse.Namespace) -> None:
    """Prints the ledger of a pair, and its verdict."""
    from ppvae.files import check_target
    from ppvae.inference.ledger.decomposition import gap as gap_of
    from ppvae.wording import figures

    for path in (asked.save, asked.html):
        if path is not None:
            check_target(path)  # before minutes of measuring
    pair, data = pair_named(asked.pair), data_in(asked.data)
    train = None if asked.train is None else data_in(asked.train)
    report = gap_of(pair, data, asked.effort, train=train, seed=asked.seed)
    print(figures(report.summary()))
    print(report.verdict())
    if asked.save is not None:
        report.save(asked.save)
    if asked.html is not None:
        report.to_html(asked.html, data)


def compare(asked: argparse.Namespace) -> None:
    """Prints the evidence of several pairs, the best first."""
    from ppvae.inference.evidence.comparison import compare as table_of
    from ppvae.inference.evidence.estimates import log_evidence
    from ppvae.wording import figures

    pairs = {name: pair_named(name) for name in asked.pairs}
    data = data_in(asked.data)
    evidences = {name: log_evidence(pair, data, asked.method, seed=asked.seed) for name, pair in pairs.items()}
    print(figures(table_of(evidences)))
    for name, evidence in evidences.items():
        if evidence.warning:
            print(f"{name}: {evidence.warning}")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"datasets": datasets, "gap": gap, "compare": compare}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ppvae", description="Measures pairs of a model and a guide.")
    parser.add_argument("--version", action="version", version=f"ppvae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{datasets,gap,compare}")
    commands.add_parser("datasets", help="list the data sets that ppvae.datasets.load knows")

    one = commands.add_parser("gap", help="why is the ELBO low? the ledger of a pair, and its verdict")
    one.add_argument("pair", help=PAIR)
    one.add_argument("data", help=DATA)
    one.add_argument("--train", metavar="DATA", help="training data, to train the guide further")
    one.add_argument(
        "--effort", default="default", help="quick (seconds), default (minutes), thorough (an hour); default: default"
    )
    one.add_argument("--save", metavar="FILE", help="keep the report, for ppvae.GapReport.load")
    one.add_argument("--html", metavar="FILE", help="write the report as one page, for a browser")

    several = commands.add_parser("compare", help="rank pairs by their evidence on the same data")
    several.add_argument("pairs", nargs="+", metavar="pair", help=PAIR)
    several.add_argument("data", help=DATA)
    several.add_argument("--method", default="auto", help="as for ppvae.log_evidence; default: auto")
    for command in (one, several):
        command.add_argument("--seed", type=_seed, default=0, help="of all draws; default: 0")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 0 or more")
    return int(text)


def pair_named(name: str) -> "Pair":
    """The pair that an argument names.

    Raises:
        TypeError, ValueError: it names none.
    """
    from ppvae.inference.runtime.pair_files import load
    from ppvae.pair import Pair
    from ppvae.wording import shown

    module, colon, attribute = name.rpartition(":")
    if not colon and not Path(name).exists():
        raise ValueError(
            f"pair: found no file {name!r}, expected one that ppvae.save wrote, MODULE:NAME or FILE.py:NAME; "
            "write the name of the pair, or of the function that makes it, after a colon"
        )
    if not colon:
        return load(name)
    found = _module(module)
    if attribute not in found:
        names = [key for key, value in found.items() if isinstance(value, Pair)]
        raise ValueError(f"pair: found no {attribute!r} in {module}, expected one of its names; its pairs are {names}")
    pair = found[attribute]
    if callable(pair) and not isinstance(pair, Pair):
        try:
            inspect.signature(pair).bind()
        except TypeError as error:
            raise TypeError(
                f"pair: found {attribute} in {module}, which needs arguments ({error}), expected a pair, or a function "
                "without arguments that makes one; write such a function, which calls it"
            ) from error
        try:
            pair = pair()
        except Exception as error:  # of any kind: users' code
            raise ValueError(
                f"pair: found that {attribute} in {module} fails ({type(error).__name__}: {error}), expected a pair "
                f"from it; call {attribute}() in Python to see where"
            ) from error
    if not isinstance(pair, Pair):
        raise TypeError(f"pair: found that {name} is {shown(pair)}, expected a Pair, or a function that makes one")
    return pair


def _module(name: str) -> dict[str, Any]:
    """The names in a module, found as `python -m` would, or in a file."""
    sys.path.insert(0, os.getcwd())
    try:
        return runpy.run_path(name) if name.endswith(".py") else vars(importlib.import_module(name))
    except Exception as error:  # of any kind: users' code
        raise ValueError(
            f"pair: found that importing {name} fails ({type(error).__name__}: {error}), expected a module or a file "
            "of Python; start in the folder that holds it"
        ) from error
    finally:
        sys.path.pop(0)


def data_in(path: str) -> Any:
    """The data in a file: an array, a table, or a dict of arrays.

    Raises:
        ValueError: a file of another kind, that is damaged, or a table without a header.
        OSError: there is no such file.
    """
    kind = Path(path).suffix
    if kind not in READERS:
        raise ValueError(f"data: found {path!r}, expected a file whose name ends in .npy, .npz or .csv")
    try:
        return READERS[kind](path)
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"data: found {path}, which cannot be read ({str(error).splitlines()[0]}), expected numbers, as "
            "numpy.save, numpy.savez or DataFrame.to_csv(index=False) write them"
        ) from error


def _table(path: str) -> Any:
    import pandas as pd

    table, header = pd.read_csv(path), pd.read_csv(path, header=None, nrows=1).iloc[0].tolist()
    if header != list(range(len(header))) and all(isinstance(name, float | int) for name in header):  # as pandas counts
        raise ValueError("its first line is of numbers, where a header should name the columns")
    if unnamed := [name for name in table.columns if name.startswith("Unnamed: ")]:
        raise ValueError(f"a column without a name, {unnamed[0]!r}, as pandas writes its index")
    return table


def _array(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r")
    except ValueError as error:  # numpy's own would have the file's code run
        raise ValueError("no array of numbers") from error


def _arrays(path: str) -> Any:
    import numpy as np

    with Path(path).open("rb") as file:
        try:
            arrays = dict(np.load(file))
        except ValueError as error:
            raise ValueError("no arrays of numbers") from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


READERS: dict[str, Callable[[str], Any]] = {".csv": _table, ".npy": _array, ".npz": _arrays}
"""How data are read, by the end of the file's name."""
