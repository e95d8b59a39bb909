"""Files: tensors as safetensors and everything else as JSON, with a checksum over both; never pickle."""

import errno
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ppvae.batches import Batch, entries
from ppvae.files import write_file

FORMAT = "ppvae 1"
COMPLEX = "complex"
"""The entry that names the complex tensors, which safetensors does not hold in double precision."""


class CheckpointError(ValueError):
    """A file that is damaged, foreign, or from another pair or run."""


def write(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes tensors, and `about` as JSON, with a checksum over both; an old file is replaced whole or not at all.

    Raises:
        ValueError, OSError: as `ppvae.files.write_file`; the old file is as it was.
    """
    copies = {name: t.detach().resolve_conj().cpu().contiguous().clone() for name, t in tensors.items()}
    told = json.dumps({**about, COMPLEX: [name for name, t in copies.items() if t.is_complex()]})
    copies = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in copies.items()}
    write_file(path, to_bytes(copies, {"format": FORMAT, "about": told, "sha256": _checksum(copies, told)}))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the `about` of a file that `write` wrote.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is truncated or damaged, not a safetensors file, or not one of ppvae's.
    """
    with _opened(path) as (file, metadata):
        mapped = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = metadata["about"]
    if metadata["sha256"] != _checksum(mapped, told):  # of the file's own bytes: a copy of booleans holds 0 and 1 only
        raise CheckpointError(
            f"{path}: found contents that differ from what was written, expected its checksum to hold; the file is "
            "damaged: use another file, or delete it to start afresh"
        )
    about = json.loads(told)
    require(path, {"about": about}, {"about": dict})
    about.setdefault(COMPLEX, [])  # earlier versions held no complex tensors
    require(path, about, {COMPLEX: list})
    pairs = about.pop(COMPLEX)
    copies = {name: t.clone() for name, t in mapped.items()}
    return {name: torch.view_as_complex(t) if name in pairs else t for name, t in copies.items()}, about


def glance(path: str | Path) -> Any:
    """The `about` of a file, before it is read: it may yet be damaged. None if it cannot be understood.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is truncated, not a safetensors file, or not one of ppvae's.
    """
    with _opened(path) as (_, metadata):
        try:
            return json.loads(metadata["about"])
        except ValueError:
            return None


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A file of ppvae's, open, and its metadata."""
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: found a directory, a device or a pipe, expected a file written by ppvae")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: found format {metadata.get('format')!r} in its metadata, expected {FORMAT!r}; "
                    "was it written by another program, or another version of ppvae?"
                )
            if not {"about", "sha256"} <= metadata.keys():
                raise CheckpointError(
                    f"{path}: found no checksum in its metadata, expected one; it was not written by ppvae"
                )
            yield file, metadata
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: found a truncated file or one that is not safetensors ({error}), expected one written by ppvae; "
            "use another file, or delete it to start afresh"
        ) from error


def require(path: str | Path, values: Any, kinds: Mapping[str, type | UnionType]) -> None:
    """Refuses a file unless these values from it are a dict that has entries of these types."""
    for name, kind in kinds.items():
        if not isinstance(values, dict) or name not in values or not isinstance(values[name], kind):
            found = type(values[name]).__name__ if isinstance(values, dict) and name in values else "none"
            raise CheckpointError(
                f"{path}: found {found} for '{name}', expected {getattr(kind, '__name__', kind)}; it is a file of "
                "another kind, or of another version of ppvae"
            )


def check_layout(path: str | Path, what: str, found: Mapping[str, Tensor], expected: Any) -> None:
    """Refuses a file whose tensors differ from the expected layout in name, shape or type; each is named."""
    require(path, {what: expected}, {what: dict})
    check_same(path, {what: layout(found)}, {what: expected})


def refuse_nan(path: str | Path, parameters: Mapping[str, Tensor]) -> None:
    """Refuses a file that has NaN in one of these tensors."""
    if (name := with_nan(parameters)) is not None:
        raise CheckpointError(
            f"{path}: found NaN in '{name}', expected numbers; it cannot be used: take another file, or delete it to "
            "start afresh"
        )


def with_nan(parameters: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that has NaN, if there is one."""
    return next((name for name, t in parameters.items() if t.isnan().any()), None)


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


def layout(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Each tensor's type and shape in words, such as `float32[10, 2]`."""
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items()}


def fingerprint(batch: Batch) -> dict[str, str]:
    """Each tensor's type, shape and checksum in words, and every other entry's type and `repr`."""
    named = {name: value for name, value in entries(batch).items() if isinstance(value, Tensor)}
    others = {name: value for name, value in entries(batch).items() if name not in named}
    crc = {name: zlib.crc32(_bytes(t.cpu().contiguous())) for name, t in named.items()}
    words = {name: f"{type(value).__name__} {describe(value)}" for name, value in others.items()}
    return words | {name: f"{kind} with CRC-32 {crc[name]:08x}" for name, kind in layout(named).items()}


def checksum(batch: Batch) -> int:
    """A CRC-32 of what `fingerprint` tells."""
    return zlib.crc32(repr(fingerprint(batch)).encode())


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


def _checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    """SHA-256 of names, types, shapes and contents of contiguous tensors, and of what is told about them."""
    digest = hashlib.sha256(told.encode())
    for name, kind in sorted(layout(tensors).items()):
        digest.update(json.dumps([name, kind]).encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(t: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return t.flatten().view(torch.uint8).numpy().data


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in settings.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result
