"""The pinned versions, and which of them are not the installed ones."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def pins(file=CONSTRAINTS):
    return dict(line.split("==") for line in file.read_text().splitlines() if "==" in line)


def installed(name):
    try:
        return version(name).partition("+")[0]  # without the build, as of 2.13.0+cpu
    except PackageNotFoundError:
        return "missing"


def other_versions(file=CONSTRAINTS):
    """What is not installed in its pinned version, as lines of text."""
    found = {name: (installed(name), pinned) for name, pinned in pins(file).items()}
    return [f"{name} {here}, pinned {pinned}" for name, (here, pinned) in found.items() if here != pinned]
