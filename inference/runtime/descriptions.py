"""Settings in words that are the same in two processes if, as far as can be told, the settings are."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from ppvae._version import __version__
from ppvae.inference.runtime.checkpoint import fingerprint, layout
from ppvae.state import state_of

Described = dict[str, str | float]
"""Words by name; numbers are compared up to rounding."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, torch.dtype, torch.device, torch.Size)
OWN_TO_EACH = {"checkpoint", "path", "callbacks", "progress", "distributed"}
"""Arguments and fields that may differ: each process has files of its own, and the first one shows how it goes."""

FEW = 8
"""Plain entries that are told one by one."""


def described(name: str, value: Any) -> Described:
    """A setting, and all that it holds: numbers, tensors, functions by name and code, objects by type and fields."""
    if isinstance(value, Tensor | np.ndarray):
        (words,) = fingerprint(torch.as_tensor(value)).values()
        return {name: words}
    if isinstance(value, nn.Module):
        return module_described(name, value)
    if isinstance(value, Mapping):
        return _joined([(f"{name}[{key}]", each) for key, each in value.items()], {name: f"{len(value)} entries"})
    if isinstance(value, list | tuple) and len(value) > FEW and all(isinstance(each, PLAIN) for each in value):
        return {name: f"{len(value)} entries with CRC-32 {zlib.crc32(repr(value).encode()):08x}"}
    if isinstance(value, list | tuple):
        return _joined([(f"{name}[{i}]", each) for i, each in enumerate(value)], {name: f"{len(value)} entries"})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.name not in OWN_TO_EACH]
        return _joined([(f"{name}.{each}", getattr(value, each)) for each in fields], {name: type(value).__qualname__})
    if hasattr(value, "to_numpy"):  # a table
        return {name: f"{type(value).__name__} {list(value.shape)}"}
    return {name: _in_words(value)}


def arguments_described(given: Mapping[str, Any]) -> Described:
    """All arguments of a call, by name, but for those that may differ between processes."""
    own = {name: value for name, value in given.items() if name not in OWN_TO_EACH}
    return _joined(own.items(), {})


def module_described(name: str, module: nn.Module, values: bool = True) -> Described:
    """A module's class, and the type, shape and, if asked for, contents of its parameters and buffers."""
    state = state_of(module)
    tensors = fingerprint(state) if values else layout(state)
    learned = sorted(each for each, p in module.named_parameters() if p.requires_grad)
    about: Described = {name: type(module).__qualname__, f"{name}, learned": ", ".join(learned)}
    return about | {f"{name}.{each}": words for each, words in tensors.items()}


def training_described(pair: nn.Module, device: torch.device, given: Mapping[str, Any]) -> Described:
    """The arguments of a training, of whose parameters those of the first process count."""
    return (
        module_described("pair", pair, values=False)
        | {"device": device.type}
        | arguments_described({name: value for name, value in given.items() if name not in ("self", "pair", "device")})
    )


def versions() -> Described:
    """What results depend on besides settings."""
    return {
        "version of ppvae": __version__,
        "version of torch": torch.__version__,
        "version of pyro": pyro.__version__,
        "default dtype": str(torch.get_default_dtype()),
    }


def _joined(named: Iterable[tuple[str, Any]], found: Mapping[str, str]) -> Described:
    result: Described = dict(found)
    for name, value in named:
        result |= described(name, value)
    return result


def _in_words(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Path):
        return "a path"
    if isinstance(value, functools.partial):
        arguments = [*map(_in_words, value.args), *(f"{key}={_in_words(v)}" for key, v in value.keywords.items())]
        return f"{_in_words(value.func)}({', '.join(arguments)}, ...)"
    if isinstance(value, type):
        return value.__qualname__
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    if code is not None:
        return f"{value.__qualname__} with code {zlib.crc32(_of_code(code, value).encode()):08x}"
    return getattr(value, "__qualname__", None) or f"a {type(value).__qualname__}"


def _of_code(code: CodeType, function: Callable[..., Any]) -> str:
    """What a function does, as text: its code, and the plain values that it was made with."""
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_full(cell)]
    given = [*held, *(getattr(function, "__defaults__", None) or ())]
    return f"{_text_of(code)} {[repr(each) if isinstance(each, PLAIN) else type(each).__name__ for each in given]}"


def _text_of(code: CodeType) -> str:
    constants = []
    for each in code.co_consts:
        if isinstance(each, CodeType):
            constants.append(_text_of(each))
        else:  # a set has another order in each process
            constants.append(repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each))
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that the function that made this one has not set
        return False
