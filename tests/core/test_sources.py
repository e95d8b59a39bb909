"""Data in the containers that people have them in: the same rows, or a refusal that says what to pass instead."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ppvae import batches
from ppvae.batches import as_batch
from ppvae.sources import is_stream

X = np.arange(12.0).reshape(6, 2)
T = torch.as_tensor(X)


class Items(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return T[index], index


class Columns:
    """As Hugging Face's `datasets.Dataset`: columns by name, in the format that it is told to give them in."""

    column_names = ("x", "label")

    def __init__(self, kind=None):
        self.format = {"type": kind, "columns": ["x", "label"], "format_kwargs": {}, "output_all_columns": False}

    def __len__(self):
        return len(X)

    def __getitem__(self, key):
        return {"x": T[key], "label": torch.arange(len(X))[key]}

    def __iter__(self):
        return (self[i] for i in range(len(X)))


def memory_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def read_only():
    array = X.copy()
    array.flags.writeable = False
    return array


ARRAYS = {
    "negative strides": lambda: X[::-1, ::-1].copy()[::-1, ::-1],
    "foreign byte order": lambda: X.astype(X.dtype.newbyteorder()),
    "foreign integers": lambda: X.astype(">i4"),
    "Fortran order": lambda: np.asfortranarray(X),
    "read-only": read_only,
    "half": lambda: X.astype(np.float16),
    "long double": lambda: X.astype(np.longdouble),
    **{kind: lambda kind=kind: X.astype(kind) for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i8")},
    "frame": lambda: pd.DataFrame(X, columns=["a", "b"]),
    "frame of several types": lambda: pd.DataFrame({"a": X[:, 0].astype(np.int8), "b": X[:, 1].astype(np.float32)}),
    "frame of nullable types": lambda: pd.DataFrame({"a": X[:, 0], "b": X[:, 1]}).astype("Int64"),
    "nothing masked": lambda: np.ma.masked_array(X, mask=np.zeros_like(X, dtype=bool)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_taken_as_they_are(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_batch(ARRAYS[name]())
    torch.testing.assert_close(found.double(), T)


def test_fields_of_records_and_series():
    records = np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i1"), ("b", "f8")])  # strides of 9 bytes
    assert as_batch(records["b"]).tolist() == [2.0, 4.0]
    assert as_batch({"x": pd.Series([1, 2, 3]), "flag": pd.Series([True, False, True])})["flag"].dtype == torch.bool


def test_files_are_not_copied(tmp_path):
    array = memory_mapped(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_batch(array)
    assert found.data_ptr() == array.ctypes.data
    assert as_batch(read_only()).dtype == torch.float64


def test_values_are_looked_at_in_blocks(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 4)
    bad = X.copy()
    bad[3, 1], bad[5, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"data\[x\]: found nan at index \(3, 1\) \(2 such values in all\)"):
        as_batch({"x": bad})


CONTAINERS = {
    "TensorDataset of one": (TensorDataset(T), T),
    "TensorDataset": (TensorDataset(T, torch.arange(6)), (T, torch.arange(6))),
    "Subset": (Subset(TensorDataset(T), [5, 0, 3]), T[[5, 0, 3]]),
    "Subset of items": (Subset(Items(), range(1, 3)), (T[1:3], torch.arange(1, 3))),
    "Dataset": (Items(), (T, torch.arange(6))),
    "DataLoader": (DataLoader(TensorDataset(T), batch_size=4), T),
    "DataLoader of several": (DataLoader(Items(), batch_size=4), (T, torch.arange(6))),
    "columns": (Columns("torch"), {"x": T, "label": torch.arange(6)}),
    "Subset of columns": (Subset(Columns("torch"), [1, 2]), {"x": T[1:3], "label": torch.arange(1, 3)}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_opened(name):
    given, expected = CONTAINERS[name]
    torch.testing.assert_close(as_batch(given), expected)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (
            pd.DataFrame({"a": [1.0, 2.0], "who": ["x", "y"], "when": pd.to_datetime(["2020", "2021"])}),
            TypeError,
            "who",
        ),
        (pd.DataFrame({"a": [1.0, 2.0], "c": pd.Categorical(["x", "y"])}), TypeError, "'c': 'category'.*cat.codes"),
        (pd.Series(pd.Categorical(["x", "y"])), TypeError, "found a column of category, .*cat.codes"),
        (pd.DataFrame({"a": [1.0, None], "b": [1, 2]}), ValueError, r"missing values in columns \['a'\]"),
        (pd.Series([1, None], dtype="Int64", name="n"), ValueError, r"columns \['n'\]"),
        (np.ma.masked_array(X, mask=X > 9), ValueError, "found 2 masked entries.*filled.*poutine.mask.*obs_mask"),
        ({"x": T, "m": np.ma.masked_equal(X, 3)}, ValueError, r"data\[m\]: found 1 masked"),
        (scipy.sparse.csr_matrix(X), TypeError, r"sparse matrix, csr_matrix.*\.toarray\(\)"),
        (scipy.sparse.coo_array(X), TypeError, r"sparse matrix, coo_array"),
        (T.to_sparse(), TypeError, r"layout torch.sparse_coo.*to_dense"),
        (torch.complex(T, T), TypeError, "complex numbers.*view_as_real"),
        (np.array([2**63], dtype=np.uint64), ValueError, "below 2"),
        (DataLoader(TensorDataset(T), shuffle=True), TypeError, "DataLoader that shuffles.*shuffle=False"),
        (Columns(), TypeError, r"format None with columns \['x', 'label'\].*with_format\('torch'"),
        (iter([T]), ValueError, "at least one tensor or array"),
    ],
)
def test_refusals_name_what_to_pass(data, kind, words):
    with pytest.raises(kind, match=words):
        as_batch(data)


class Endless(IterableDataset):
    def __iter__(self):
        return iter([T, T])


def test_streams_are_told_from_containers():
    for stream in (
        iter([T]),
        (t for t in [T]),
        DataLoader(TensorDataset(T)),
        DataLoader(Endless()),
        Endless(),
        range(3),
    ):
        assert is_stream(stream)
    for held in (T, X, [T], (T,), {"x": T}, pd.DataFrame(X), TensorDataset(T), Items(), Columns("torch"), "x", None):
        assert not is_stream(held)
