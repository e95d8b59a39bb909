"""From a DataFrame, or a dict of columns, to numbers with a mask, and back."""

from collections.abc import Mapping, Sequence, Set, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.arguments import Finite, checked
from ppvae.lost_digits import refuse_lost_digits
from ppvae.models.tables.mixed_columns import Columns, is_missing, is_one_value
from ppvae.wording import shown

WHOLE = {"count": (np.inf, "whole numbers from 0 on"), "binary": (1, "0 or 1")}
"""The kinds of whole numbers: the largest, and what they are in words."""
MOST_COUNT = 2**62
"""A count that int64 holds."""


@checked
def table_columns(frame: Any) -> dict[str, str | list[Any]]:
    """What the columns of a pandas DataFrame are, by their types; change what is meant otherwise.

    Booleans, and whole numbers that are 0 or 1, are binary; other whole numbers from 0 on are counts; ordered
    categories are ordinal; other numbers are real. Whole numbers with missing values are floats in pandas, and so real,
    unless they are of its type Int64 (`frame.convert_dtypes()`).

    Args:
        frame: a DataFrame.

    Raises:
        TypeError: no DataFrame, or a column that is none of these, such as text or unordered categories.
        ValueError: two columns of one name.

    Example:
        >>> import pandas as pd
        >>> table_columns(pd.DataFrame({"age": [52.5, None], "visits": [3, 0], "smokes": [True, False]}))
        {'age': 'real', 'visits': 'count', 'smokes': 'binary'}
    """
    if isinstance(frame, type) or not hasattr(frame, "dtypes"):
        raise TypeError(f"frame: found {type(frame).__name__}, expected a DataFrame; write the dict of columns by hand")
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"frame: found several columns '{twice[0]}', expected one of each name; rename or drop them")
    return {str(name): _kind(name, frame[name]) for name in frame.columns}


def _kind(name: Any, values: Any) -> str | list[Any]:
    there = values.dropna().infer_objects()  # booleans with missing values are objects, as pandas has it
    dtype = there.dtype
    if getattr(dtype, "ordered", None):
        return list(dtype.categories)
    if dtype.kind == "b":
        return "binary"
    if dtype.kind in "iu" and (there >= 0).all():
        return "binary" if (there <= 1).all() else "count"
    if dtype.kind in "iuf":
        return "real"
    raise TypeError(
        f"column '{name}': found {dtype}, expected numbers, booleans or ordered categories; make indicators of it "
        "(pandas.get_dummies), order it (.astype(pandas.CategoricalDtype(levels, ordered=True))), or drop it"
    )


@checked
def read_table(table: Any, columns: Columns) -> tuple[Tensor, Tensor]:
    """A table as a pair takes it: its values `[N, F]`, 0 in place of missing ones, and a mask of what is there.

    None, NaN, pandas' NA and masked entries are missing. Values are of torch's default type.

    Args:
        table: a DataFrame, or a dict of columns, each a sequence of N values.
        columns: what each column is, by name; those of the table that are not named are left out. A column that is
            called by a number goes by its string, as `table_columns` has it.

    Raises:
        TypeError: a table that is neither, a column that is no sequence of single values, or a value that is no number.
        ValueError: a column that is not there, columns of several lengths, or a value that is impossible in its column;
            values that differ by less than the default type holds.

    Example:
        >>> x, present = read_table({"grade": ["high", None, "low"]}, {"grade": ["low", "middle", "high"]})
        >>> x[:, 0], present[:, 0]
        (tensor([2., 0., 0.]), tensor([ True, False,  True]))
    """
    if not isinstance(table, Mapping) and not hasattr(table, "columns"):
        raise TypeError(f"table: found {type(table).__name__}, expected a DataFrame, or a dict of columns")
    labels = list(table if isinstance(table, Mapping) else table.columns)
    called = {str(label): label for label in labels} | {label: label for label in labels if isinstance(label, str)}
    if missing := [name for name in columns if name not in called]:
        raise ValueError(f"table: found no columns {missing}, expected all that are named in `columns`")
    given = {name: table[called[name]] for name in columns}
    for name, values in given.items():
        no_order = isinstance(values, str | Mapping | Set)
        if not isinstance(values, Sized) or no_order or getattr(values, "ndim", 1) != 1:
            raise TypeError(
                f"column '{name}': found {shown(values)}, expected a sequence of values, one for each row; of "
                "several columns of one name, rename or drop all but one"
            )
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"table: found columns of lengths {lengths}, expected one length")
    read = [_numbers(name, given[name], kind) for name, kind in columns.items()]
    x = torch.as_tensor(np.stack(read, -1), dtype=torch.get_default_dtype())
    if x.isinf().any():
        row, j = x.isinf().nonzero()[0].tolist()
        raise ValueError(
            f"column '{list(columns)[j]}', row {row}: found {read[j][row]:g}, expected one that {x.dtype} holds; is "
            "it a missing one? Pass None, or other units"
        )
    for name, values in zip(columns, read, strict=True):
        there = torch.as_tensor(values[~np.isnan(values)])
        refuse_lost_digits(f"column '{name}'", there, x.dtype, "call torch.set_default_dtype(torch.float64) first")
    return x.nan_to_num(), ~x.isnan()


def _numbers(name: str, values: Any, kind: str | Sequence[Any]) -> np.ndarray:
    """A column as floats, NaN where a value is missing."""
    level = None if isinstance(kind, str) else {value: float(k) for k, value in enumerate(kind)}
    found = np.array([_number(name, i, value, level) for i, value in enumerate(values)])
    impossible = np.isinf(found)
    if level is None and kind in WHOLE:
        most, said = WHOLE[str(kind)]
        impossible |= (found != np.round(found)) & ~np.isnan(found) | (found < 0) | (found > most)
    else:
        said = "finite numbers"
    if impossible.any():
        row = int(impossible.argmax())
        raise ValueError(f"column '{name}', row {row}: found {found[row]:g}, expected {said}, or None")
    return found


def _number(name: str, row: int, value: Any, level: Mapping[Any, float] | None) -> float:
    if value is np.ma.masked:
        return np.nan
    if not is_one_value(value):
        raise TypeError(f"column '{name}', row {row}: found {shown(value)}, expected one value, or None")
    if is_missing(value):
        return np.nan
    if level is None and isinstance(value, np.datetime64 | np.timedelta64):
        raise TypeError(
            f"column '{name}', row {row}: found {value!r}, expected a number, or None; pass the days, or another unit, "
            "since some date: (dates - dates.min()) / np.timedelta64(1, 'D')"
        )
    if level is None:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"column '{name}', row {row}: found {value!r}, expected a number, or None") from error
    if value not in level:
        raise ValueError(f"column '{name}', row {row}: found {value!r}, expected one of {list(level)}, or None")
    return level[value]


@checked
def write_table(x: Finite, columns: Columns) -> dict[str, np.ndarray]:
    """Values `[N, F]`, such as samples or imputed ones, as a dict of columns; `pandas.DataFrame(...)` takes it.

    Args:
        x: the values.
        columns: what each column is.

    Raises:
        ValueError: another number of columns, or a value that is impossible in its column.

    Example:
        >>> write_table(torch.tensor([[2.0], [0.0]]), {"grade": ["low", "middle", "high"]})
        {'grade': array(['high', 'low'], dtype='<U6')}
    """
    if x.dim() != 2 or x.shape[1] != len(columns):
        raise ValueError(f"x: found shape {list(x.shape)}, expected [N, {len(columns)}], a number for each column")
    read = zip(columns.items(), x.detach().cpu().unbind(1), strict=True)
    return {name: _written(name, values, kind) for (name, kind), values in read}


def _written(name: str, values: Tensor, kind: str | Sequence[Any]) -> np.ndarray:
    if kind == "real":
        return values.numpy()
    most = {"count": MOST_COUNT, "binary": 1}[kind] if isinstance(kind, str) else len(kind) - 1
    near = values.round()
    if not (possible := (near >= 0) & (near <= most)).all():
        row = int((~possible).nonzero()[0])
        raise ValueError(f"column '{name}', row {row}: found {values[row]:g}, expected a number from 0 to {most:g}")
    whole = near.long().numpy()
    if isinstance(kind, str):
        return whole.astype(bool) if kind == "binary" else whole
    levels = np.array(kind)
    if levels.tolist() != list(kind):  # it makes strings of 1 and "2+"
        levels = np.array(kind, dtype=object)
    return levels[whole]
