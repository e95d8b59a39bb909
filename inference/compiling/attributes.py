"""Numbers and strings that modules keep as attributes: a program holds their values, and would not see them change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ppvae.inference.compiling.inputs import PLAIN, CannotCompileError


@contextmanager
def attributes_stay(module: nn.Module) -> Iterator[None]:
    """Around what runs the module; sets the numbers and strings back that it changes.

    Raises:
        CannotCompileError: there are some, which explains others of this kind.
    """
    before = [(part, dict(vars(part))) for part in module.modules()]
    changes, error = [], None
    try:
        yield
    except CannotCompileError as reason:
        error = reason
    finally:
        for part, attributes in before:
            changes += [f"{type(part).__name__}.{change}" for change in _set_back(part, attributes)]
    if changes:
        raise CannotCompileError(
            f"{changes[0]}, expected an attribute that stays, as a program holds its value; keep what changes from "
            "call to call in a buffer"
        ) from error
    if error is not None:
        raise error


def _set_back(part: nn.Module, before: dict[str, Any]) -> list[str]:
    """What was changed."""
    changes = []
    for name, value in list(vars(part).items()):
        old = before.get(name)
        if value is not None and isinstance(value, PLAIN) and repr(value) != repr(old):
            changes.append(f"{name}: found {value!r} after {old!r}" if name in before else f"{name}: found {value!r}")
            if name in before:
                setattr(part, name, old)
            else:
                delattr(part, name)
    return changes
