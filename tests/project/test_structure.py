"""The house as its imports draw it: rooms, arrows that run one way, no circle, one door to private names."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {
    "core": set(),
    "runtime": {"core"},
    "objectives": {"core"},
    "compiling": {"core", "runtime", "objectives"},
    "training": {"core", "runtime", "objectives", "compiling"},
    "evidence": {"core", "runtime", "objectives", "compiling"},
    "ledger": {"core", "runtime", "objectives", "compiling", "training", "evidence"},
    "diagnostics": {"core", "runtime", "objectives", "compiling", "training", "evidence", "ledger"},
    "models": {"core"},
}
BELOW["views"] = {*BELOW} - {"models"}
BELOW["front"] = {*BELOW}
"""What each room may import, besides itself."""

FACES = {"ppvae", "ppvae.inference", "ppvae.models", "ppvae.views"}
FRONT = {"ppvae.__main__", "ppvae.command_line", "ppvae.sklearn"}
"""Faces for those who do not write pairs: they stand before all rooms."""

FOLDERS = {"ppvae": "ppvae", "inference": "ppvae.inference", "models": "ppvae.models"}


def modules():
    """Every module's file, by its dotted name; packages without code of their own are left out."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder)
            if path.name != "__init__.py" and not (folder == "ppvae" and inner.parts[0] in FOLDERS):
                found[".".join([package, *inner.with_suffix("").parts])] = path
    return found


MODULES = modules()
PACKAGES = FACES | {name.rpartition(".")[0] for name in MODULES}


def room(name):
    if name in FRONT:
        return "front"
    parts = name.split(".")
    if parts[1] == "inference":
        return parts[2]
    return parts[1] if parts[1] in ("models", "views") else "core"


def imported(path):
    """What a file imports anywhere, in functions and for type checkers too; a package only where it is taken whole."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module} - PACKAGES | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


ARROWS = {name: imported(path) & MODULES.keys() for name, path in MODULES.items()}


def test_there_is_a_house():
    assert len(MODULES) > 90
    assert {room(name) for name in MODULES} == set(BELOW)


def test_arrows_run_one_way():
    against = [
        f"{name} -> {other}"
        for name, others in ARROWS.items()
        for other in others
        if room(other) != room(name) and room(other) not in BELOW[room(name)]
    ]
    assert against == []


def test_there_is_no_circle():
    circle = []
    try:
        TopologicalSorter(ARROWS).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == [], "modules that import one another"


def test_nothing_below_the_face_imports_it():
    """`import ppvae` inside the package would be a circle through the face."""
    through = [
        f"{name} -> {other}"
        for name, path in MODULES.items()
        for other in imported(path) - MODULES.keys()
        if other in FACES or other.rpartition(".")[0] in FACES
    ]
    assert through == []


PRIVATE = re.compile(
    r"\b(torch|pyro)(\.\w+)*\._(?!_)|from (torch|pyro)[\w.]* import .*\b_\w|unittest"
    r"|_enumerate_dim|_dim_to_symbol|_pyro_dims"
)
DOORS = {"ppvae.internals", *(name for name in MODULES if room(name) == "compiling")}


def test_private_names_pass_one_door():
    found = [
        f"{name}: {line.strip()}"
        for name, path in MODULES.items()
        if name not in DOORS
        for line in path.read_text().splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("package", ["ppvae", "inference", "models"])
def test_no_module_has_the_name_of_an_exported_function(package):
    """Else it depends on what was imported last which of the two the name means."""
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text())
    exported = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    stems = {name.rpartition(".")[2] for name in MODULES}
    modules_shown = {"datasets", "networks", "pictures", "plots", "sklearn"}
    assert exported & stems <= modules_shown


@pytest.mark.parametrize("folder", ["ppvae", "inference", "models", "tests", "examples", "benchmarks"])
def test_no_file_is_too_long_to_read(folder):
    files = [path for path in (ROOT / folder).rglob("*.py") if path.is_file()]
    assert files
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 400] == []


@pytest.mark.parametrize("folder", list(FOLDERS))
def test_rooms_are_two_levels_at_most(folder):
    deep = [path for path in (ROOT / folder).rglob("*.py") if len(path.relative_to(ROOT / folder).parts) > 2]
    assert [path for path in deep if path.relative_to(ROOT / folder).parts[0] not in FOLDERS] == []
