"""Batches: a tensor, a tuple of tensors, or a dict of tensors that share dimension 0.

A tensor is passed to the model and the guide as `model(x)`, a tuple as `model(*batch)`, a dict as `model(**batch)`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Batch: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def tensors(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch by name; positions serve as names where there are none."""
    if isinstance(batch, dict):
        return batch
    return {str(i): t for i, t in enumerate(batch if isinstance(batch, tuple) else (batch,))}


def map_batch(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """The batch with `function` applied to each of its tensors."""
    if isinstance(batch, dict):
        return {name: function(t) for name, t in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(function(t) for t in batch)
    return function(batch)


def num_rows(batch: Batch) -> int:
    """The number of data points in a batch: the common size of dimension 0."""
    return next(iter(tensors(batch).values())).shape[0]


def rows(batch: Batch, index: Tensor | slice) -> Batch:
    """The data points of `batch` at `index`."""
    return map_batch(lambda t: t[index], batch)


def repeated(batch: Batch, num: int) -> Batch:
    """The batch repeated `num` times, one copy after another."""
    return batch if num == 1 else map_batch(lambda t: t.repeat(num, *(1,) * (t.dim() - 1)), batch)


def call(function: Callable, batch: Batch) -> Any:
    """`function(x)`, `function(*batch)` or `function(**batch)`, as the batch's type says."""
    if isinstance(batch, dict):
        return function(**batch)
    return function(*batch) if isinstance(batch, tuple) else function(batch)


def as_batch(data: Any, device: torch.device | str | None = None) -> Batch:
    """Data as a batch of tensors, checked: arrays become tensors; nothing empty, ragged, NaN or infinite passes.

    Args:
        data: a tensor or array `[N, *event]`, or a tuple, list or dict of them sharing dimension 0.
        device: where the tensors are to live; `None` leaves them where they are.

    Raises:
        TypeError: something in `data` is neither a tensor nor a numeric array.
        ValueError: no data points, sizes of dimension 0 that differ, or a non-finite value (its index is named).

    Example:
        >>> as_batch({"x": np.zeros((3, 2)), "length": np.array([1, 2, 2])})["x"].shape
        torch.Size([3, 2])
    """
    batch = map_batch(_as_tensor, data)
    named = tensors(batch)
    if not named:
        raise ValueError(
            "data: found no tensor at all, expected at least one; pass a tensor, a tuple or a dict of them"
        )
    sizes = {name: t.shape[0] if t.dim() else None for name, t in named.items()}
    if None in sizes.values() or len(set(sizes.values())) > 1:
        raise ValueError(f"data: sizes of dimension 0 are {sizes}, expected one number of data points for all")
    if num_rows(batch) == 0:
        raise ValueError("data: found 0 data points, expected at least 1; is a filter or a split too strict?")
    for name, t in named.items():
        bad = ~torch.isfinite(t)
        if bad.any():
            index = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"data[{name}]: found {t[index].item()} at index {index} ({int(bad.sum())} such values in all), "
                "expected finite numbers; remove or impute those rows first"
            )
    return map_batch(lambda t: t.to(device), batch) if device is not None else batch


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        found = f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"data: found {found}, expected a tensor or a numeric array")
    return torch.as_tensor(array)
