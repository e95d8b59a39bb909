"""Pages made from the code: the reference, from the lists of public names; the gallery, from the examples."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

GROUPS = {
    "pairs": ("Pairs", "A model and a guide, their weights, files and encodings."),
    "data": ("Data, networks, scikit-learn", "Small data sets, networks that keep leading dimensions, estimators."),
    "models": ("Models", "Pairs, and the parts that they are made of."),
    "objectives": ("Objectives", "Bounds, and their gradients."),
    "training": ("Training", "Fitting a pair."),
    "evidence": ("Evidence", "log p(x) per data point, by several methods."),
    "ledger": ("The ledger", "What lies between log p(x) and the ELBO."),
    "diagnostics": ("Diagnostics", "The noise of gradients, and tests of a guide."),
    "runtime": ("Records", "What measurements return, and files."),
    "views": ("Pictures and export", "Plots, pictures of images, ArviZ."),
}
"""The pages of the reference, by room of the code."""

MODULES = {"datasets": "data", "networks": "data", "plots": "views", "pictures": "views"}
"""Public modules, whose functions are listed one by one."""


def setup(app):
    app.connect("config-inited", lambda app, config: write())
    app.connect("source-read", _list_other_pages)
    return {"parallel_read_safe": True}


def write() -> None:
    """Writes the generated pages, which git ignores."""
    for name, text in (*_reference(), *_gallery()):
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:  # else Sphinx would read it again
            path.write_text(text)


def public_names() -> dict[str, list[str]]:
    """The names that users write, by the page on which they stand."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for package in ("ppvae", "ppvae.models", "ppvae.inference"):
        folder = package.removeprefix("ppvae.")
        for node in ast.parse((ROOT / folder / "__init__.pyi").read_text()).body:
            module = f"{package}.{node.module}" if node.module else package
            for alias in node.names:
                if alias.name.startswith("__") or module == package:
                    continue
                if alias.name in MODULES:
                    for name in _functions(ROOT / "ppvae" / "views" / f"{alias.name}.py"):
                        found["views"].setdefault(f"{alias.name}.{name}", f"ppvae.views.{alias.name}.{name}")
                else:
                    found[_room(module)].setdefault(alias.name, f"{package}.{alias.name}")
    for name in ("datasets", "networks", "sklearn"):
        for function in _functions(ROOT / "ppvae" / f"{name}.py"):
            found["data"][f"{name}.{function}"] = f"ppvae.{name}.{function}"
    return {page: sorted(names.values(), key=str.lower) for page, names in found.items()}


def _room(module: str) -> str:
    parts = module.split(".")
    if parts[1] == "inference":
        return parts[2]
    return parts[1] if parts[1] in ("models", "views") else "pairs"


def _functions(path: Path) -> Iterator[str]:
    """The public functions and classes of a module, and those that it passes on (`import f as f`)."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)


def _reference() -> Iterator[tuple[str, str]]:
    names = public_names()
    pages = [page for page in GROUPS if page in names]
    toctree = "\n".join(pages)
    yield "reference/index.md", f"# Reference\n\nAll public names.\n\n```{{toctree}}\n:maxdepth: 1\n\n{toctree}\n```\n"
    for page in pages:
        title, about = GROUPS[page]
        listed = "\n".join(f"   {name}" for name in dict.fromkeys(names[page]))
        yield (
            f"reference/{page}.md",
            f"# {title}\n\n{about}\n\n```{{eval-rst}}\n.. autosummary::\n   :toctree: names\n\n{listed}\n```\n",
        )


def _gallery() -> Iterator[tuple[str, str]]:
    entries, pages = [], []
    for path in sorted((ROOT / "examples").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or path.stem
        title = re.split(r"(?<=\?)\s|[:.]| - ", docstring)[0].strip()
        picture = _picture(path.stem)
        image = f"![What the example draws](../{picture.name})\n\n" if picture.exists() else ""
        code = f"```{{literalinclude}} ../../examples/{path.name}\n:language: python\n```"
        command = f"```sh\npython examples/{path.name} --help\n```"
        yield f"gallery/{path.stem}.md", f"# {title}\n\n{command}\n\n{image}{docstring}\n\n## The code\n\n{code}\n"
        link = f"[{title}]({path.stem}.md)"
        about = re.split(r"(?<=\.)\s", " ".join(docstring.partition("\n\n")[2].split()))[0]
        entries.append(f"- ![{title}](../{picture.name}) {link}" if picture.exists() else f"- {link}\\\n  {about}")
        pages.append(path.stem)
    listed, toctree = "\n".join(entries), "\n".join(pages)
    yield (
        "gallery/index.md",
        "# Gallery\n\nThe examples of the repository, each a program with a `--help`; pictures are of full runs.\n\n"
        f":::{{container}} gallery\n{listed}\n:::\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n",
    )


def _picture(example: str) -> Path:
    """The picture of an example: of its name, or of its name's first word (`diffusion.png`)."""
    named = DOCS / f"{example}.png"
    return named if named.exists() else DOCS / f"{example.partition('_')[0]}.png"


def _list_other_pages(app, docname, source) -> None:
    """Puts the pages that the start page does not name where it says `{other pages}`: a new page needs no entry."""
    if docname == "index":
        named = set(re.findall(r"^[\w/-]+$", source[0], re.MULTILINE))
        others = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in named | {"index"})
        source[0] = source[0].replace("{other pages}", "\n".join(others))
