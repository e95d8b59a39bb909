"""Why something cannot be traced, in the words of whoever wrote it."""

import linecache
import traceback
from pathlib import Path

from ppvae.reached_modules import LIBRARIES


def reason(error: Exception) -> str:
    """The error's first line; for what torch says badly, the line of the user's code, and the remedy."""
    text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if "torch._C.Generator" in text:  # which torch 2.8 cannot trace
        return f"{_users_line(error)}: found a Generator that a call draws from, expected draws without one"
    if "_local_scalar_dense" not in text and "data-dependent" not in text:
        return text
    return (
        f"{_users_line(error)}: found data-dependent control flow, a line that looks at a tensor's values, as a "
        "branch, .item() and one_hot do; expected the same operations whatever the values, such as "
        "torch.where(condition, a, b) for a branch, and torch.eye(10)[y] for one_hot(y, 10)"
    )


def _users_line(error: Exception) -> str:
    """Where the error's way leaves the user's code for a library's, as file, line and text."""
    where = "the model or the guide"
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES:
            file = frame.f_code.co_filename
            where = f"{Path(file).name}:{number}, `{linecache.getline(file, number).strip()}`"
    return where
