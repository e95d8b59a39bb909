"""Versions: which are declared, which are pinned, and that a warning under the pinned ones is an error."""

import configparser
import re
import warnings
from pathlib import Path

import pytest
from support.versions import other_versions, pins

ROOT = Path(__file__).parents[2]


def requirements():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"] + extras["test"] + extras["docs"]
    return dict(re.split(r"\s*>=\s*", line) for line in lines.strip().splitlines() if line)


def test_what_is_required_is_what_is_pinned():
    """A pin that nothing installs would switch the errors off for good."""
    assert requirements().keys() == pins().keys()


@pytest.mark.parametrize("name", sorted(requirements()))
def test_pins_lie_in_the_declared_ranges(name):
    def number(version):
        return [int(part) for part in version.split(".")]

    assert number(pins()[name]) >= number(requirements()[name])


def test_warnings_are_errors_under_the_pinned_versions():
    if other_versions():
        pytest.skip("other versions are installed than the pinned ones")
    with pytest.raises(DeprecationWarning):
        warnings.warn("such as of a library", DeprecationWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("torch==0.1", "torch .*, pinned 0.1"), ("no-such-package==1.0", "no-such-package missing, pinned 1.0")],
)
def test_other_versions_are_named(line, expected, tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text(f"# pinned\n{line}\n")
    [found] = other_versions(file)
    assert re.fullmatch(expected, found)
