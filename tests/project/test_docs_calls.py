"""Each call of a public function in the documents names arguments that it has, and all that it cannot do without."""

import ast
import contextlib
import inspect
import re
from pathlib import Path

import pytest

import ppvae
import ppvae.sklearn

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = {package: set(package.__all__) for package in (ppvae, ppvae.models, ppvae.inference, ppvae.sklearn)}
FENCED = r"```(?:python|\{code-cell\})\n(.*?)```"


def pieces(text):
    """The code of a page: its blocks, and what stands in backticks and is a call."""
    yield from re.findall(FENCED, text, re.DOTALL)
    yield from re.findall(r"`([^`\n]+\([^`\n]*\))`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def calls(codes):
    """The calls in these pieces of one page, but of what the page itself defines."""
    trees = []
    for code in codes:
        with contextlib.suppress(SyntaxError):  # of the prose, as in `q(z | x_S)`
            trees.append(ast.parse(code))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found = [node for node in nodes if isinstance(node, ast.Call)]
    return [node for node in found if ast.unparse(node.func).split(".")[0] not in own]


def named(node):
    """The public thing of this name, or None where the name is not ppvae's."""
    if not re.fullmatch(r"[\w.]+", ast.unparse(node)):
        return None
    first, *rest = ast.unparse(node).split(".")
    found = ppvae if first == "ppvae" and rest else None
    found = found or next((getattr(package, first) for package, names in PACKAGES.items() if first in names), None)
    for name in rest if found else []:
        found = getattr(found, name)
    return found


def complaint(node):
    """What is wrong with a call, or an empty string; `...` among the arguments stands for any others."""
    function = named(node.func)
    if not callable(function):
        return ""
    values = [*node.args, *[keyword.value for keyword in node.keywords]]
    short = any(isinstance(v, ast.Starred) or (isinstance(v, ast.Constant) and v.value is ...) for v in values)
    short |= any(keyword.arg is None for keyword in node.keywords)
    keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
    signature = inspect.signature(function)
    try:
        signature.bind_partial(**keywords) if short else signature.bind(*node.args, **keywords)
    except TypeError as error:
        return f"{ast.unparse(node)}: {error}"
    if {"epochs", "steps"} <= signature.parameters.keys() and not short and not {"epochs", "steps"} & keywords.keys():
        return f"{ast.unparse(node)}: neither epochs nor steps"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_calls_are_what_functions_take(page):
    found = [complaint(node) for node in calls(pieces(page.read_text()))]
    assert [each for each in found if each] == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ppvae.fit(pair, x)", "neither"),
        ("fit(pair, x, epochs=1, lrr=1)", "lrr"),
        ("ppvae.gap()", "pair"),
        ("fit(..., lr=1)", ""),
        ("other(1)", ""),
    ],
)
def test_a_wrong_call_is_found(code, said):
    (node,) = calls([code])
    assert said in complaint(node)
    assert bool(said) == bool(complaint(node))
