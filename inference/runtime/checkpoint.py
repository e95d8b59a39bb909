"""Files: tensors as safetensors and everything else as JSON, never pickle; a file is replaced whole or not at all."""

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ppvae.batches import Batch, entries

FORMAT = "ppvae 1"


class CheckpointError(ValueError):
    """A file that is damaged, foreign, or from another pair or run."""


def write(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors, and `about` as JSON, to a temporary file beside `path`, which then takes its place."""
    path = Path(path)
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    content = to_bytes({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, metadata)
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the `about` of a file that `write` wrote.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is truncated, not a safetensors file, or not one of ppvae's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: found a truncated file or one that is not safetensors ({error}), expected one written by ppvae; "
            "use another file, or delete it to start afresh"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: found format {metadata.get('format')!r} in its metadata, expected {FORMAT!r}; "
            "was it written by another program, or another version of ppvae?"
        )
    return tensors, json.loads(metadata["about"])


def check_same(path: str | Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuses a file whose settings differ from the expected ones; each difference is named."""
    old, new = _flat(found), _flat(expected)
    if names := [name for name in old | new if old.get(name) != new.get(name)]:
        listed = [f"{name}: found {old.get(name, 'none')}, expected {new.get(name, 'none')}" for name in names[:8]]
        more = [f"and {len(names) - 8} more"] if len(names) > 8 else []
        raise CheckpointError(
            f"{path} is from another pair or run: {'; '.join(listed + more)}. "
            "Use the pair and settings it was written with, or another file"
        )


def layout(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Each tensor's type and shape in words, such as `float32[10, 2]`."""
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items()}


def fingerprint(batch: Batch) -> dict[str, str]:
    """Each tensor's type, shape and checksum in words, and every other entry's type and `repr`."""
    named = {name: value for name, value in entries(batch).items() if isinstance(value, Tensor)}
    others = {name: value for name, value in entries(batch).items() if name not in named}
    crc = {name: zlib.crc32(t.cpu().contiguous().flatten().view(torch.uint8).numpy().data) for name, t in named.items()}
    words = {name: f"{type(value).__name__} {describe(value)}" for name, value in others.items()}
    return words | {name: f"{kind} with CRC-32 {crc[name]:08x}" for name, kind in layout(named).items()}


def describe(thing: object) -> str:
    """A function's or an object's `repr`, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in settings.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result
