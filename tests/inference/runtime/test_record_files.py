"""Records as files: what is read is what was written, and a file of anything else is refused by what it holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file

import ppvae
from ppvae.inference.runtime.checkpoint import CheckpointError
from ppvae.inference.runtime.record_files import read_record, write_record
from ppvae.inference.runtime.records import Evidence, Measurement, Sandwich
from ppvae.models import LinearVAE


@dataclass(frozen=True)
class Leaf:
    values: torch.Tensor
    name: str


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    by_name: Mapping[str, Leaf]
    number: float
    words: tuple[str, ...]
    flag: bool = True
    none: Leaf | None = None
    notes: dict[str, str] = field(default_factory=dict)
    counts: tuple[torch.Tensor, ...] = ()


KINDS = (Tree, Leaf)
FLOATS = torch.tensor([1 / 3, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7e308], dtype=torch.float64)
TENSORS = {
    "float64": FLOATS,
    "float32": torch.tensor([1 / 3, 1e-45]),
    "int64": torch.tensor([[2**62, -1]]),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(6.0).reshape(2, 3).T,
}


def identical(a, b):
    """Of one type, and bit for bit the same: NaN equals NaN, and -0 is not 0."""
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return same and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(identical(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(identical, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and identical(vars(a), vars(b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.safetensors"


def tree(leaf=None):
    return Tree(
        leaf=leaf or Leaf(FLOATS, "top"),
        by_name={"a.b": Leaf(torch.ones(2), "ä"), "a": Leaf(torch.zeros(2), "")},
        number=0.1,
        words=("one", "two"),
        notes={"line": "why"},
        counts=(torch.ones(1), torch.arange(2)),
    )


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_survive_bit_for_bit(name, path):
    write_record(Leaf(TENSORS[name], name), path)
    assert identical(read_record(path, [Leaf]), Leaf(TENSORS[name], name))


@pytest.mark.parametrize("number", [0.1, 1e-320, math.nan, -math.inf, 7])
def test_nested_records_survive_bit_for_bit(number, path):
    record = Tree(**{**vars(tree()), "number": number})
    write_record(record, path)
    assert identical(read_record(path, KINDS), record)


def test_names_that_join_to_the_same_are_kept_apart(path):
    """A mapping's name may hold dots."""
    record = Tree(**{**vars(tree()), "by_name": {"a": Leaf(torch.ones(1), "x"), "a.values": Leaf(torch.zeros(1), "y")}})
    nested = Tree(**{**vars(tree()), "notes": {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}})
    for each in (record, nested):
        write_record(each, path)
        assert identical(read_record(path, KINDS), each)


@pytest.mark.slow(3)
def test_evidence_with_candidates_and_certificate_survives(path):
    """The library's own record, as measured."""
    pair = LinearVAE(5, 2)
    x = pair.sample(6)
    settings = ppvae.AIS(num_temperatures=3, num_chains=2)
    measured = ppvae.log_evidence(pair, x, "bdmc", annealing=settings, seed=0, progress=False)
    record = Evidence(**{**vars(measured), "candidates": {"iwae": measured}})
    write_record(record, path)
    assert measured.certificate is not None
    assert identical(read_record(path, (Evidence, Measurement, Sandwich)), record)


def test_an_old_record_is_replaced(path):
    for values in (torch.ones(3), torch.zeros(2)):
        write_record(Leaf(values, "x"), path)
    assert identical(read_record(path, [Leaf]), Leaf(torch.zeros(2), "x"))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(kept, path):
    write_record(tree(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="found a truncated file or one that is not safetensors"):
        read_record(path, KINDS)


def test_a_foreign_file_is_refused(path):
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="found format None in its metadata, expected 'ppvae 1'"):
        read_record(path, KINDS)


def test_another_record_is_refused(path):
    write_record(Leaf(torch.ones(2), "x"), path)
    with pytest.raises(CheckpointError, match="found Leaf, expected a Tree"):
        read_record(path, KINDS)


def test_a_record_with_an_unknown_one_inside_is_refused(path):
    @dataclass(frozen=True)
    class Later:
        values: torch.Tensor

    write_record(tree(leaf=Later(torch.ones(1))), path)
    with pytest.raises(CheckpointError, match="found a Tree of another version of ppvae: 'Later'"):
        read_record(path, KINDS)


def test_a_record_of_other_fields_is_refused(path):
    """Of another version, say."""

    @dataclass(frozen=True)
    class Versioned:
        values: torch.Tensor
        added: int = 0

    Versioned.__name__ = "Leaf"
    write_record(Versioned(torch.ones(1)), path)
    with pytest.raises(CheckpointError, match=r"found a Leaf of another version of ppvae: .* argument 'added'"):
        read_record(path, [Leaf])


def test_a_checkpoint_is_no_record(path):
    ppvae.save(LinearVAE(5, 2), path)
    with pytest.raises(CheckpointError, match="found no record, expected a Tree"):
        read_record(path, KINDS)


def test_a_missing_file_is_said_to_be(path):
    with pytest.raises(FileNotFoundError):
        read_record(path, KINDS)
