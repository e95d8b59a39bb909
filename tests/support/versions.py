"""The pinned versions, and which of them are not the installed ones."""

import configparser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


def pins(file=CONSTRAINTS):
    return dict(line.split("==") for line in file.read_text().splitlines() if "==" in line)


def installed(name):
    try:
        return version(name).partition("+")[0]  # without the build, as of 2.13.0+cpu
    except PackageNotFoundError:
        return "missing"


def of_the_site():
    """What the documentation site alone needs: whether it is installed changes no test's warnings."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return {line.split()[0] for line in config["options.extras_require"]["docs"].splitlines() if line}


def other_versions(file=CONSTRAINTS):
    """What the tests need and is not installed in its pinned version, as lines of text."""
    found = {name: (installed(name), pinned) for name, pinned in pins(file).items() if name not in of_the_site()}
    return [f"{name} {here}, pinned {pinned}" for name, (here, pinned) in found.items() if here != pinned]
