"""Names and rooms within models: one meaning a name, and parts that know nothing of what is made of them."""

import ast
from collections import defaultdict
from pathlib import Path

MODELS = Path(__file__).parents[2] / "models"
TREES = {path.relative_to(MODELS): ast.parse(path.read_text()) for path in MODELS.rglob("*.py")}


def defined(tree):
    """The names of classes, functions and constants at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def test_a_name_is_defined_in_one_module():
    found = defaultdict(list)
    for path, tree in TREES.items():
        for name in set(defined(tree)) - {"__getattr__", "__dir__", "__all__"}:
            found[name].append(str(path))
    assert len(found) > 100
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_no_module_has_the_name_of_something_that_is_defined():
    names = {name for tree in TREES.values() for name in defined(tree)}
    assert names.isdisjoint(path.stem for path in TREES)


def test_parts_import_no_other_room_of_models():
    imported = {
        f"{path}: {node.module}"
        for path, tree in TREES.items()
        if path.parts[0] == "parts"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ppvae.models")
    }
    assert len(imported) > 5
    assert {line for line in imported if ": ppvae.models.parts." not in line} == set()
