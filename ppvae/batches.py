"""Batches: a tensor, a tuple or a dict, passed to model and guide as `model(x)`, `model(*batch)` or `model(**batch)`.

Its tensors of one dimension or more are the rows: they share dimension 0. Everything else in a tuple or a dict (None,
numbers, strings, modules, tensors without dimensions) is no data, and is passed on as it is.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from inspect import signature
from typing import Any, TypeAlias

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.sources import as_tensor, is_array, refuse_special, unpacked
from ppvae.wording import shown

Batch: TypeAlias = Tensor | tuple[Any, ...] | dict[str, Any]
Transform: TypeAlias = Callable[[Any], Any]

CPU = torch.device("cpu")
BLOCK = 2**22
"""Numbers that are looked at together."""


def is_rows(value: Any) -> bool:
    """Whether an entry of a batch holds a row for each data point."""
    return isinstance(value, Tensor) and value.dim() > 0


def entries(batch: Any) -> dict[str, Any]:
    """All entries of a batch by name; positions serve as names where there are none."""
    if isinstance(batch, dict):
        return batch
    return {str(i): value for i, value in enumerate(batch if isinstance(batch, tuple) else (batch,))}


def tensors(batch: Batch) -> dict[str, Tensor]:
    """The rows of a batch, by name."""
    return {name: value for name, value in entries(batch).items() if is_rows(value)}


def passed_through(batch: Batch) -> dict[str, Any]:
    """The entries of a batch that are no rows, by name."""
    return {name: value for name, value in entries(batch).items() if not is_rows(value)}


def with_entries(batch: Any, values: Iterable[Any]) -> Any:
    """A batch of the same kind, with these entries in the order of its own."""
    if isinstance(batch, dict):
        return dict(zip(batch, values, strict=True))
    return tuple(values) if isinstance(batch, tuple) else next(iter(values))


def map_batch(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """The batch with `function` applied to each of its tensors of rows; the other entries stay as they are."""
    return with_entries(batch, [function(v) if is_rows(v) else v for v in entries(batch).values()])


def num_rows(batch: Batch) -> int:
    """The number of data points in a batch: the common size of dimension 0."""
    for rows_of_one in tensors(batch).values():
        return rows_of_one.shape[0]
    raise ValueError("data: found no tensor with a row for each data point, expected at least one, [N, ...]")


def numbers(batch: Batch) -> Tensor:
    """All numbers of each row, in double precision, `[B, F]`."""
    return torch.cat([t.reshape(num_rows(batch), -1).double() for t in tensors(batch).values()], -1)


def rows(batch: Batch, index: Tensor | slice) -> Batch:
    """The data points of `batch` at `index`."""
    return map_batch(lambda t: t[index], batch)


def some_rows(num: int, most: int) -> Tensor:
    """Indices of at most so many of `num` data points, always the same: any of them, as data may be sorted."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(0))[:most].sort().values


def repeated(batch: Batch, num: int) -> Batch:
    """The batch `num` times over, copy after copy: row b of copy k is row `k * B + b`."""
    return batch if num == 1 else map_batch(lambda t: t.repeat(num, *(1,) * (t.dim() - 1)), batch)


def made_beside(batch: Batch) -> AbstractContextManager[Any]:
    """Around users' code: what it makes without naming a device, as by `torch.zeros(8)`, is where the batch is."""
    device = next((t.device for t in tensors(batch).values()), CPU)
    return nullcontext() if device == CPU else device


def call(function: Callable, batch: Batch) -> Any:
    """`function(x)`, `function(*batch)` or `function(**batch)`, as the batch's type says; within `made_beside`.

    A plate of N data points, of which it says that the batch is some, takes all rows of a batch that has more.
    """
    try:
        with made_beside(batch), _AllRows(batch):
            if isinstance(batch, dict):
                return function(**batch)
            return function(*batch) if isinstance(batch, tuple) else function(batch)
    except IndexError as error:
        _note_indices(error, batch)
        raise


class _AllRows(Messenger):
    """Pyro would draw N of the batch's rows, where `pyro.plate("data", N, subsample_size=len(x))` is given more."""

    def __init__(self, batch: Batch):
        super().__init__()
        self._batch = batch

    def _pyro_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if (
            site_is_subsample(msg)
            and msg["value"] is None
            and fn.size < (fn.subsample_size or 0) == num_rows(self._batch)
        ):
            msg["value"] = torch.arange(fn.subsample_size)


def transformed(transform: Transform | None, batch: Batch) -> Any:
    """What a transform, if there is one, makes of a batch; within `made_beside`."""
    with made_beside(batch):
        return transform(batch) if transform else batch


def _note_indices(error: IndexError, batch: Batch) -> None:
    """Notes which whole numbers there are in a batch: one of them may be the index that is out of range."""
    whole = {name: t for name, t in tensors(batch).items() if t.numel() and not t.is_floating_point()}
    found = [f"data[{name}]: found whole numbers from {t.min()} to {t.max()}" for name, t in whole.items()]
    if found and not getattr(error, "__notes__", None):
        error.add_note(
            "; ".join(found) + "; where they are indices, expected fewer than there are entries; do they count from 0?"
        )


def of_batch(method: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Decorates what a pair knows of x in closed form: it takes the pair's batches, x, `(x,)` or `{"x": x}`, alike."""
    _, name = signature(method).parameters

    @wraps(method)
    def called(self: Any, x: Any) -> Tensor:
        if isinstance(x, tuple) and len(x) == 1:
            (x,) = x
        elif isinstance(x, dict) and list(x) == [name]:
            x = x[name]
        return method(self, x)

    return called


def named_batch(name: str, data: Any) -> Batch:
    """`as_batch` of an argument of another name, by which its errors call the data."""
    with naming(name):
        return as_batch(data)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Around what refuses data: its errors call them by the name of an argument."""
    try:
        yield
    except (TypeError, ValueError) as error:
        told = str(error)
        raise type(error)(name + told[4:] if told.startswith("data") else f"{name}: {told}") from error


def as_batch(data: Any, device: torch.device | str | None = None) -> Batch:
    """Data as a batch, checked: arrays become tensors; nothing empty, ragged, NaN or infinite passes.

    Args:
        data: a tensor or array `[N, *event]`, or a tuple, list or dict of them sharing dimension 0, and of what is no
            data and is passed on to model and guide as it is. Tables of pandas are arrays, too. Or a `TensorDataset`, a
            `Subset`, a `DataLoader` that does not shuffle, or a data set of Hugging Face's in torch format.
        device: where the tensors are to live; `None` leaves them where they are.

    Raises:
        TypeError: something in `data` is neither a tensor nor a numeric array (columns of a table are named), is
            sparse or packed, or hides tensors in a container.
        ValueError: no data points, sizes of dimension 0 that differ, masked or missing entries, or a non-finite value
            (its index is named).

    Example:
        >>> import numpy as np
        >>> as_batch({"x": np.zeros((3, 2)), "length": np.array([1, 2, 2]), "beta": 0.5})["x"].shape
        torch.Size([3, 2])
    """
    data = unpacked(data)
    batch = with_entries(data, [_entry(name, value) for name, value in entries(data).items()])
    named = tensors(batch)
    if not named:
        found = {name: type(value).__name__ for name, value in entries(batch).items()}
        raise ValueError(
            f"data: found {shown(found) if found else 'no entries'}, expected at least one tensor or array [N, ...] of "
            "N data points; pass a tensor, or a tuple or a dict with one"
        )
    sizes = {name: t.shape[0] for name, t in named.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"data: found that sizes of dimension 0 are {sizes}, expected one number of data points for all; each row "
            "is a data point (is one of them transposed?), and a tensor that is no data belongs in the pair, as a "
            "parameter or a buffer"
        )
    if num_rows(batch) == 0:
        raise ValueError("data: found 0 data points, expected at least 1; is a filter or a split too strict?")
    _refuse_lists_of_rows(batch)
    for name, t in named.items():
        if t.is_meta:
            raise ValueError(
                f"data[{name}]: found a tensor on the device 'meta', which holds no numbers, expected one that does"
            )
        _refuse_nonfinite(name, t)
    return map_batch(lambda t: t.to(device), batch) if device is not None else batch


def _entry(name: str, value: Any) -> Any:
    """An entry of a batch: arrays as tensors, what is no data as it is."""
    where = f"data[{name}]"
    refuse_special(where, value)
    if isinstance(value, tuple | list | dict) and _holds_arrays(value):
        raise TypeError(
            f"{where}: found a {type(value).__name__} of tensors or arrays, expected each as an argument of its "
            "own; pass them side by side in one tuple or dict, and put them together in the model"
        )
    return with_autograd(as_tensor(where, value)) if is_array(value) else value


def with_autograd(t: Tensor) -> Tensor:
    """The tensor, or a copy of one that `torch.inference_mode` made, as autograd can take part in no such one."""
    return t.clone() if t.is_inference() and not torch.is_inference_mode_enabled() else t


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, tuple | list | dict):
        return any(_holds_arrays(v) for v in (value.values() if isinstance(value, dict) else value))
    return is_array(value)


def _refuse_lists_of_rows(batch: Batch) -> None:
    """A list with an entry for each data point would be passed on whole, whatever data points are taken."""
    for name, value in passed_through(batch).items():
        if isinstance(value, tuple | list) and len(value) == num_rows(batch):
            raise TypeError(
                f"data[{name}]: found a {type(value).__name__} with as many entries as there are data points, expected "
                "a tensor or an array if it has one for each; pass torch.tensor(...) of it"
            )


def _refuse_nonfinite(name: str, t: Tensor) -> None:
    """Looks at some rows at a time: the data may be a file larger than memory."""
    if not t.is_floating_point():
        return
    first, total, start = None, 0, 0
    for block in t.split(max(1, BLOCK // max(1, t[:1].numel()))):
        if (num := int((~torch.isfinite(block)).sum())) and first is None:
            place = (~torch.isfinite(block)).nonzero()[0].tolist()
            first = (place[0] + start, *place[1:])
        total, start = total + num, start + len(block)
    if first is not None:
        raise ValueError(
            f"data[{name}]: found {t[first].item()} at index {first} ({total} such values in all), "
            "expected finite numbers; remove or impute those rows first, or put a number inside the support of the "
            "likelihood where a mask says that it is missing"
        )
