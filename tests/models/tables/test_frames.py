"""Tables are read with a mask of what is there, written as they were, and refused where they make no sense."""

import numpy as np
import pandas as pd
import pytest
import torch

from ppvae.models import read_table, table_columns, write_table

LEVELS = ["low", "middle", "high"]
COLUMNS = {"age": "real", "visits": "count", "smokes": "binary", "grade": LEVELS}


def frame():
    grade = pd.Categorical(["high", None, "low"], LEVELS, ordered=True)
    visits = pd.array([3, 0, None], "Int64")
    return pd.DataFrame({"age": [52.5, np.nan, 33.0], "visits": visits, "smokes": [True, False, True], "grade": grade})


def test_a_data_frame_is_read_and_written():
    assert table_columns(frame()) == COLUMNS
    x, present = read_table(frame(), COLUMNS)
    assert x.tolist() == [[52.5, 3.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [33.0, 0.0, 1.0, 0.0]]
    assert present.tolist() == [[True] * 4, [False, True, True, False], [True, False, True, True]]
    written = write_table(x, COLUMNS)
    assert pd.DataFrame(written).iloc[0].to_dict() == {"age": 52.5, "visits": 3, "smokes": True, "grade": "high"}
    assert torch.equal(read_table(written, COLUMNS)[0], x)


def test_a_hole_leaves_booleans_binary_and_nullable_integers_counts():
    frame = pd.DataFrame({"owner": [True, None, False], "visits": pd.array([3, None, 0], dtype="Int64")})
    columns = table_columns(frame)
    assert columns == {"owner": "binary", "visits": "count"}
    x, present = read_table(frame, columns)
    assert x.tolist() == [[1.0, 3.0], [0.0, 0.0], [0.0, 0.0]]
    assert present.tolist() == [[True, True], [False, False], [True, True]]


def test_a_dict_is_read_as_a_data_frame():
    table = {"visits": [3, None], "age": np.array([1.0, np.nan]), "grade": [None, "middle"], "name": ["a", "b"]}
    x, present = read_table(table, {"visits": "count", "age": "real", "grade": LEVELS})
    assert x.tolist() == [[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert present.tolist() == [[True, True, False], [False, False, True]]


def test_columns_that_are_called_by_numbers_go_by_their_strings():
    values = np.random.default_rng(0).normal(size=(5, 3))
    frame = pd.DataFrame(values)
    columns = table_columns(frame)
    assert columns == {"0": "real", "1": "real", "2": "real"}
    torch.testing.assert_close(read_table(frame, columns)[0], torch.as_tensor(values).float())
    both = pd.DataFrame({0: [1.0], "0": [2.0]})
    assert read_table(both, {"0": "real"})[0].tolist() == [[2.0]]


@pytest.mark.parametrize("levels", [[0, 1, "2+"], [1, 2.5], [False, True], ["0", "1"]], ids=str)
def test_levels_of_any_kind_come_back_as_they_were(levels):
    table = {"kids": [levels[-1], levels[0], levels[-1]]}
    x, _ = read_table(table, {"kids": levels})
    written = write_table(x, {"kids": levels})
    assert written["kids"].tolist() == table["kids"]
    assert torch.equal(read_table(written, {"kids": levels})[0], x)


SECONDS = {"time": [1_600_000_001.0, None, 1_600_000_005.0]}


@pytest.mark.parametrize("kind", ["real", "count"])
def test_values_that_single_precision_cannot_tell_apart_are_refused(kind):
    """Seconds since 1970 would all be 1.6e9; a hole among them changes nothing of that."""
    found = r"^column 'time': found numbers near 1.6e\+09 .*float32 keeps too little.*torch.set_default_dtype"
    with pytest.raises(ValueError, match=found):
        read_table(SECONDS, {"time": kind})


def test_in_double_precision_they_are_read(float64):
    assert read_table(SECONDS, {"time": "real"})[0].tolist() == [[1_600_000_001.0], [0.0], [1_600_000_005.0]]


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ({"a": [1]}, {"b": "real"}, "table: found no columns .'b'., expected all that are named"),
        ({"a": [1], "b": [1, 2]}, {"a": "real", "b": "real"}, "table: found columns of lengths .*expected one length"),
        ({"a": [0, 2]}, {"a": "binary"}, "column 'a', row 1: found 2, expected 0 or 1"),
        ({"a": [0, -1]}, {"a": "count"}, "column 'a', row 1: found -1, expected whole numbers from 0 on"),
        ({"a": [0.5]}, {"a": "count"}, "column 'a', row 0: found 0.5, expected whole numbers from 0 on"),
        ({"a": [1.0, np.inf]}, {"a": "real"}, "column 'a', row 1: found inf, expected finite numbers"),
        ({"b": [0, 1], "a": [1.0, -1e300]}, {"b": "count", "a": "real"}, "column 'a', row 1: found -1e.300, .*float32"),
        ({"a": ["top"]}, {"a": LEVELS}, "column 'a', row 0: found 'top', expected one of"),
        ({"a": ["top"]}, {"a": "real"}, "column 'a', row 0: found 'top', expected a number"),
        ({"a": [["low"], "high"]}, {"a": LEVELS}, "column 'a', row 0: found .'low'., expected one value, or None"),
        ({"a": [np.zeros(2)]}, {"a": "real"}, "column 'a', row 0: found a ndarray of shape .2..*, expected one value"),
        ({"a": np.zeros((3, 2))}, {"a": "real"}, r"column 'a': found a ndarray of shape \[3, 2\].*one for each row"),
        ({"a": 3.0}, {"a": "real"}, "column 'a': found 3.0, expected a sequence of values, one for each row"),
        (
            pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]),
            {"a": "real"},
            "column 'a': found a DataFrame.*rename or drop",
        ),
        ({"a": ["low"]}, {"a": [["low"], ["high"]]}, "columns.'a'.: found a list of 2.*number or a string"),
        ({"a": ["low"]}, {"a": ["low", None]}, "columns.'a'.: found .'low', None.*what is missing is none of them"),
        ({"a": ["low"]}, {"a": ["low", np.nan]}, "columns.'a'.: found .'low', nan.*what is missing is none of them"),
        ([[1.0]], {"a": "real"}, "table: found list, expected a DataFrame, or a dict of columns"),
    ],
)
def test_what_makes_no_sense_is_refused(table, columns, message):
    with pytest.raises((TypeError, ValueError), match=message):
        read_table(table, columns)


def test_columns_without_a_kind_are_refused():
    with pytest.raises(TypeError, match=r"column 'name': found .*, expected numbers, booleans or ordered categories"):
        table_columns(pd.DataFrame({"name": ["Ann"]}))
    with pytest.raises(TypeError, match="frame: found dict, expected a DataFrame"):
        table_columns({"a": [1]})


def test_another_number_of_columns_is_not_written():
    with pytest.raises(ValueError, match=r"x: found shape \[2, 3\], expected \[N, 4\]"):
        write_table(torch.zeros(2, 3), COLUMNS)


def test_masked_entries_are_missing():
    x, present = read_table({"age": np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])}, {"age": "real"})
    assert x[:, 0].tolist() == [1.0, 0.0, 3.0]
    assert present[:, 0].tolist() == [True, False, True]


@pytest.mark.parametrize("values", [{0: 52.5, 1: 33.0}, {52.5, 33.0}, {52.5: None}.keys()])
def test_what_has_keys_or_no_order_is_no_column(values):
    with pytest.raises(TypeError, match=r"column 'age': found .*, expected a sequence of values, one for each row"):
        read_table({"age": values}, {"age": "real"})


@pytest.mark.parametrize("unit", ["s", "ns", "D"])
def test_dates_are_no_numbers(unit):
    dates = np.array(["2020-01-01", "NaT"], dtype=f"datetime64[{unit}]")
    for values in (dates, dates - dates):
        with pytest.raises(
            TypeError, match=r"column 'day', row 0: found .*, expected a number, or None; pass the days"
        ):
            read_table({"day": values}, {"day": "real"})


@pytest.mark.parametrize(("name", "value", "most"), [("grade", -1.0, 2), ("grade", 3.0, 2), ("smokes", 2.0, 1)])
def test_impossible_values_are_not_written(name, value, most):
    with pytest.raises(
        ValueError, match=f"column '{name}', row 1: found {value:g}, expected a number from 0 to {most}"
    ):
        write_table(torch.tensor([[0.0], [value]]), {name: COLUMNS[name]})


def test_counts_that_int64_does_not_hold_are_not_written():
    with pytest.raises(ValueError, match="column 'visits', row 0: found 1e"):
        write_table(torch.tensor([[1e20]]), {"visits": "count"})


def test_two_columns_of_one_name_are_refused():
    twice = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    with pytest.raises(ValueError, match="found several columns 'a', expected one of each name"):
        table_columns(twice)
