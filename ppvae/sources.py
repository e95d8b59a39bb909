"""Data in the containers that people have them in, as tensors: without a copy where their memory can be shared."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

WIDER = {"u2": np.int32, "u4": np.int64, "u8": np.int64, "f16": np.float64}
"""Types of NumPy's that torch computes little or nothing with, and what they become."""

MASKED = (
    "pass the array with a filler, such as array.filled(0), and its mask as another argument, with which the model "
    "leaves those entries out: pyro.poutine.mask(mask=...) or pyro.sample(..., obs_mask=...)"
)


def unpacked(data: Any) -> Any:
    """A data set as what it holds: a tensor, or a tuple or a dict of them. Anything else is returned as it is.

    Raises:
        TypeError: it is a PackedSequence, or gives its data in an order of its own, or not as tensors.
    """
    if isinstance(data, PackedSequence):
        raise TypeError(_packed("data"))
    _refuse_images(data)
    if isinstance(data, list):
        return tuple(data)
    if isinstance(data, Tensor | tuple | dict):
        return data
    if isinstance(data, TensorDataset):
        return data.tensors if len(data.tensors) > 1 else data.tensors[0]
    if isinstance(data, Subset):
        return _taken(unpacked(data.dataset), torch.as_tensor(list(data.indices)))
    if isinstance(data, DataLoader):
        if isinstance(data.sampler, RandomSampler):
            raise TypeError(
                "data: found a DataLoader that shuffles, expected data in a fixed order, as results are per data "
                "point; pass its dataset, or make it with shuffle=False"
            )
        return _concatenated(data)
    if hasattr(data, "column_names") and hasattr(data, "format"):
        return _hugging_face(data)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return _concatenated(DataLoader(data, batch_size=1000))
    return data


def is_stream(data: Any) -> bool:
    """Whether data come in batches, one after the other: an iterable that is no container of data known here."""
    if isinstance(data, Dataset | DataLoader):
        return isinstance(data, DataLoader | IterableDataset)
    known = isinstance(data, tuple | list | dict | str) or hasattr(data, "__array__") or hasattr(data, "column_names")
    return hasattr(data, "__iter__") and not known


def as_tensor(where: str, value: Any) -> Tensor:
    """An array, or a table's columns, as a tensor that shares its memory where it can.

    Args:
        where: the argument, for messages.
        value: something with `__array__`.

    Raises:
        TypeError: not numbers (of a table, the columns are named), or a sparse matrix.
        ValueError: an array with masked entries.
    """
    if isinstance(value, Tensor):
        return value
    if _is_of("pandas", value):
        value = _table(where, value)
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            num = int(np.ma.getmaskarray(value).sum())
            raise ValueError(f"{where}: found {num} masked entries, expected none; {MASKED}")
        value = value.data
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        found = f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"{where}: found {found}, expected a tensor or a numeric array")
    if array.dtype.str[1:] == "u8" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{where}: found {array.max()}, expected integers below 2^63; pass them as floats")
    wider = WIDER.get(array.dtype.str[1:], array.dtype.newbyteorder("="))
    array = array.astype(wider, copy=False)
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()  # torch has no such strides
    with warnings.catch_warnings():  # of read-only memory, which nothing here writes to
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def listed_numbers(where: str, value: Sequence[Any]) -> np.ndarray:
    """A list of numbers as an array.

    Raises:
        TypeError: its entries are lists of unequal lengths, or tensors.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:  # ragged, or of tensors with several numbers
        raise TypeError(f"{where}: found a list that is no array ({error}), expected one of numbers alone") from error


def refuse_special(where: str, value: Any) -> None:
    """Refuses, by name, what holds data that cannot be taken row by row.

    Raises:
        TypeError: a PackedSequence, or a sparse matrix or tensor.
    """
    if isinstance(value, PackedSequence):
        raise TypeError(_packed(where))
    if hasattr(value, "toarray") and _is_of("scipy", value):
        raise TypeError(
            f"{where}: found a sparse matrix, {type(value).__name__}, expected a dense array; pass .toarray() of it, "
            "or, in batches for data that do not fit memory, an iterable of them to ppvae.fit"
        )
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise TypeError(f"{where}: found a tensor of layout {value.layout}, expected a dense one; pass .to_dense()")
    if isinstance(value, Tensor) and value.is_complex():
        raise TypeError(f"{where}: found complex numbers, expected real ones; pass torch.view_as_real(...) of them")


def is_array(value: Any) -> bool:
    """Whether a value is a tensor, or turns into an array, with a dimension at least."""
    return hasattr(value, "__array__") and np.ndim(value) > 0


def _is_of(package: str, value: Any) -> bool:
    """Whether a value's class comes from a package, which need not be imported to tell."""
    return any(c.__module__.partition(".")[0] == package for c in type(value).__mro__)


def _refuse_images(data: Any) -> None:
    """Refuses a folder and a list of PIL's images, and says what makes tensors of them."""
    is_list = isinstance(data, list | tuple) and bool(data)
    kind = f"a list of {len(data)} images" if is_list and _is_of("PIL", data[0]) else ""
    if isinstance(data, str | os.PathLike) and os.path.isdir(data):
        kind = f"the folder {os.fspath(data)}"
    if kind:
        raise TypeError(f"data: found {kind}, expected numbers; pass ppvae.datasets.images(...) of it, [N, C, H, W]")


def _packed(where: str) -> str:
    return (
        f"{where}: found a PackedSequence, expected rows that can be taken one by one; pass the padded tensor "
        "[N, T, ...] and the lengths [N] as two arguments (torch.nn.utils.rnn.pad_packed_sequence(packed, "
        "batch_first=True) gives both), and mask the padding, as with pyro.poutine.mask"
    )


def _table(where: str, value: Any) -> np.ndarray:
    """A pandas DataFrame, Series or the like, as an array of numbers."""
    if not len(value):
        return np.empty(value.shape)  # whose columns have no type
    dtypes = dict(value.dtypes) if hasattr(value, "columns") else {getattr(value, "name", None): value.dtype}
    if other := {str(name): str(dtype) for name, dtype in dtypes.items() if dtype.kind not in "biuf"}:
        found = f"columns {other}" if hasattr(value, "columns") else f"a column of {value.dtype}"
        raise TypeError(
            f"{where}: found {found}, expected numbers in all; drop them, or turn categories into integers "
            "(.cat.codes) or indicators (pandas.get_dummies), and pass those that are no data by themselves"
        )
    kinds = [getattr(dtype, "numpy_dtype", dtype) for dtype in dtypes.values()]  # of pandas' own nullable types, too
    if missing := [str(name) for name in dtypes if _column(value, name).isna().any()]:
        raise ValueError(
            f"{where}: found missing values in columns {missing}, expected none; remove or impute those rows first, or "
            "fill them, pass which are there as another argument, and mask the others in the model, as with "
            ".mask(present).to_event(1) of their distribution"
        )
    return value.to_numpy(dtype=np.result_type(*kinds))


def _column(value: Any, name: Any) -> Any:
    return value[name] if hasattr(value, "columns") else value


def _taken(data: Any, index: Tensor) -> Any:
    if isinstance(data, dict):
        return {name: t[index] for name, t in data.items()}
    return tuple(t[index] for t in data) if isinstance(data, tuple) else data[index]


def _hugging_face(data: Any) -> Any:
    """All columns of a data set of Hugging Face's `datasets`, whose format says what they come as."""
    kind = data.format.get("type") if isinstance(data.format, dict) else None
    if kind not in ("torch", "numpy"):
        raise TypeError(
            f"data: found a {type(data).__name__} in format {kind!r} with columns {list(data.column_names)}, expected "
            "format 'torch'; pass .with_format('torch', columns=[...]) with those that are arguments of the model"
        )
    return dict(data[:])


def _concatenated(batches: Any) -> Any:
    """All batches of a loader in one."""
    parts = list(batches)
    if not parts:
        return ()
    first = parts[0]
    if isinstance(first, dict):
        return {name: torch.cat([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return tuple(columns) if len(columns) > 1 else columns[0]
    return torch.cat(parts)
