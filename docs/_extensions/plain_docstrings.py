"""Docstrings as this project writes them, which is plain text with backticks: marks of reStructuredText are escaped."""

import inspect
import re

CODE = re.compile(r"(`[^`]*`)")
MARK = re.compile(r"[*|]|(?<=\w)_(?!\w)")


def setup(app):
    app.connect("autodoc-process-docstring", _escape, priority=100)  # before napoleon
    app.connect("autodoc-before-process-signature", _without_types)
    return {"parallel_read_safe": True}


def _escape(app, what, name, obj, options, lines) -> None:
    paragraphs = re.split(r"(\n\s*\n)", "\n".join(lines))
    lines[:] = "".join(p if ">>>" in p else _plain(p) for p in paragraphs).split("\n")


def _plain(paragraph: str) -> str:
    """A paragraph with marks escaped where it is text, and code told apart from letters that follow it."""
    parts = CODE.split(paragraph.replace("...", "…"))  # as autosummary ends a sentence at a full stop
    for at in range(0, len(parts), 2):
        joined = at > 0 and re.match(r"[\w(]", parts[at])
        parts[at] = ("\\ " if joined else "") + MARK.sub(r"\\\g<0>", parts[at])
    return "".join(parts)


def _without_types(app, obj, bound_method) -> None:
    """Signatures without annotations, which are rules here: docstrings say what arguments are."""
    function = inspect.unwrap(obj)
    getattr(function, "__func__", function).__annotations__ = {}
