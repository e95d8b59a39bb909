"""Records as files: their tensors as safetensors, all else as JSON."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ppvae.inference.runtime.checkpoint import CheckpointError, read, write


def write_record(record: Any, path: str | Path) -> None:
    """Writes a dataclass of tensors, plain values, tuples, mappings and other such dataclasses to a file."""
    tensors: dict[str, Tensor] = {}
    written = _written(record, "record", tensors)
    write(path, tensors, written)


def read_record(path: str | Path, kinds: Collection[type]) -> Any:
    """Reads what `write_record` wrote: a record of the first of these kinds, made of the others.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged, or holds something else.
    """
    tensors, written = read(path)
    by_name = {kind.__name__: kind for kind in kinds}
    expected = next(iter(by_name))
    if written.get("kind") != expected:
        raise CheckpointError(f"{path}: found {written.get('kind', 'no record')}, expected a {expected}")
    try:
        return _read(written, tensors, by_name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: found a {expected} of another version of ppvae: {error}") from error


def _written(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors)} {path}"  # numbered, as paths may coincide: names in mappings may have dots
        tensors[name] = value
        return {"tensor": name}
    if dataclasses.is_dataclass(value):
        fields = {
            f.name: _written(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        return {"mapping": {name: _written(each, f"{path}.{name}", tensors) for name, each in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_written(each, path, tensors) for each in value]}
    return value


def _read(written: Any, tensors: dict[str, Tensor], kinds: Mapping[str, type]) -> Any:
    if not isinstance(written, dict):
        return written
    if "tensor" in written:
        return tensors[written["tensor"]]
    if "kind" in written:
        return kinds[written["kind"]](**{name: _read(v, tensors, kinds) for name, v in written["fields"].items()})
    if "mapping" in written:
        return {name: _read(each, tensors, kinds) for name, each in written["mapping"].items()}
    return tuple(_read(each, tensors, kinds) for each in written["tuple"])
