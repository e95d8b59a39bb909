"""The ways in which ppvae comes to a machine: sdist, wheel, editable install, a clone without symbolic links."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = {"models": "../models", "inference": "../inference"}
IMPORT_ALL = """
import importlib, pkgutil, sys, ppvae
names = [module.name for module in pkgutil.walk_packages(ppvae.__path__, "ppvae.")]
for name in names:
    importlib.import_module(name)
print(len(names), ppvae.__file__)
"""

pytestmark = [
    pytest.mark.slow(40),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout"),
]


def run(*command, cwd, **environment):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def checkout(folder, links=True):
    """The tracked files as they are now."""
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            if links:
                target.symlink_to(os.readlink(source))
            else:  # what git writes where there are no links
                target.write_text(os.readlink(source))
        elif source.exists():
            target.write_bytes(source.read_bytes())
    return folder


def environment(folder):
    """A virtual environment that sees what this one has, but for ppvae, which is installed in it."""
    run(sys.executable, "-m", "venv", str(folder), cwd=ROOT)
    python = folder / "bin" / "python"
    purelib = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=ROOT).strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "ppvae" not in entry.name and entry.suffix != ".pth" and not (purelib / entry.name).exists():
            (purelib / entry.name).symlink_to(entry)
    return str(python)


def imported_from(python, cwd):
    """How many modules there are, and where the package is."""
    number, path = run(python, "-c", IMPORT_ALL, cwd=cwd, PYTHONPATH="").split()
    return int(number), Path(path)


NUMBER = sum(1 for folder in ("ppvae", "inference", "models") for path in (ROOT / folder).rglob("*.py"))


def test_sdist_and_wheel(tmp_path):
    """The sdist holds what its tests need, the wheel every module; tests run from the one on the other."""
    source, built = checkout(tmp_path / "source"), tmp_path / "dist"
    run(sys.executable, "-m", "build", "--outdir", str(built), str(source), cwd=tmp_path)
    (sdist,), (wheel,) = (list(built.glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in ("tests/conftest.py", "tests/support/zoo.py", "docs/pairs.md", "examples/flows.py", "constraints.txt"):
        assert (unpacked / name).is_file(), name
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.endswith(".py") for name in names) == NUMBER
    assert {"ppvae/py.typed", "ppvae/__init__.pyi", "ppvae/models/__init__.pyi"} <= set(names)
    python = environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", "--no-deps", str(wheel), cwd=tmp_path)
    tests = [str(unpacked / "tests" / name) for name in ("core/test_pair.py", "models/test_vae.py")]
    found = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=tmp_path, PYTHONPATH="")
    assert " passed" in found
    assert " failed" not in found


def test_a_clone_without_links(tmp_path):
    source = checkout(tmp_path / "source", links=False)
    assert {name: (source / "ppvae" / name).read_text() for name in LINKS} == LINKS
    python = environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", "--no-deps", str(source), cwd=tmp_path)
    number, path = imported_from(python, tmp_path)
    assert number == NUMBER - 1
    assert (tmp_path / "venv") in path.parents


def test_an_editable_install(tmp_path):
    source = checkout(tmp_path / "source")
    python = environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", str(source), cwd=tmp_path)
    number, path = imported_from(python, tmp_path)
    assert number == NUMBER - 1
    assert source in path.parents
