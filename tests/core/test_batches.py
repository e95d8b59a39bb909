"""Batches: the rows among their entries, and the entries that are passed on as they are."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from support.annealed import Annealed, Watched, annealed
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import ppvae
from ppvae import Effort
from ppvae.batches import as_batch, entries, map_batch, num_rows, passed_through, repeated, rows, tensors
from ppvae.inference.ledger.ascent import Ascent
from ppvae.simulation import simulate

X, NET, SCALAR = torch.arange(6.0).reshape(3, 2), nn.Linear(2, 1), torch.tensor(0.5)
OTHERS = {"none": None, "flag": True, "word": "mean", "beta": 0.3, "net": NET, "scalar": SCALAR, "sizes": [4, 5]}


@pytest.mark.parametrize("batch", [{"x": X, **OTHERS}, (X, *OTHERS.values())], ids=["dict", "tuple"])
def test_what_has_no_rows_is_passed_on_untouched(batch):
    for changed in (as_batch(batch), rows(batch, slice(2)), repeated(batch, 3), map_batch(lambda t: t.double(), batch)):
        assert type(changed) is type(batch)
        assert list(entries(changed)) == list(entries(batch))
        for name, value in passed_through(batch).items():
            assert entries(changed)[name] is value
    assert len(tensors(batch)) == 1
    assert num_rows(batch) == 3


def test_repeated_is_copy_after_copy():
    batch = {"x": X, "y": torch.arange(3), "beta": 0.5}
    assert repeated(batch, 1) is batch
    found = repeated(batch, 2)
    assert torch.equal(found["x"], torch.cat([X, X]))
    assert found["y"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (None, ValueError, "at least one tensor or array"),
        ((1.0, None), ValueError, "'0': 'float'"),
        ({}, ValueError, "no entries"),
        ((X, torch.zeros(2)), ValueError, "{'0': 3, '1': 2}.*parameter or a buffer"),
        ((X, (X, X)), TypeError, r"data\[1\]: found a tuple of tensors"),
        ({"x": X, "state": {"h": np.zeros(3)}}, TypeError, r"data\[state\]: found a dict of tensors"),
        ({"x": X, "labels": [0, 1, 2]}, TypeError, r"data\[labels\]: found a list with as many.*torch.tensor"),
        ((X, np.array(["a", "b", "c"])), TypeError, r"data\[1\]: found ndarray of dtype <U1"),
        (pack_padded_sequence(X.unsqueeze(-1), [2, 2, 1], batch_first=True), TypeError, "padded tensor.*lengths"),
        ((X, pack_padded_sequence(X.unsqueeze(-1), [2, 2, 1], batch_first=True)), TypeError, r"data\[1\].*PackedSeq"),
    ],
)
def test_refusals_name_the_entry_and_the_remedy(data, kind, words):
    with pytest.raises(kind, match=words):
        as_batch(data)


SHORT = ppvae.AIS(num_chains=2, num_temperatures=5, num_leapfrog=1)
EFFORT = Effort("iwae", 20, num_samples=10, ascent=Ascent(2, max_steps=5), restarts=0, refit_steps=5)
"""Little, of all lines."""
CONSUMERS = {
    "fit": lambda pair, data: ppvae.fit(pair, data, steps=3, batch_size=4, held_out=data, progress=False),
    "log_evidence": lambda pair, data: ppvae.log_evidence(pair, data, "iwae", num_particles=20, progress=False),
    "ais": lambda pair, data: ppvae.log_evidence(pair, data, "ais", annealing=SHORT, progress=False),
    "bdmc": lambda pair, data: ppvae.log_evidence(pair, data, "bdmc", annealing=SHORT, progress=False),
    "elbo_terms": lambda pair, data: ppvae.elbo_terms(pair, data, 5, progress=False),
    "gap": lambda pair, data: ppvae.gap(pair, data, EFFORT, progress=False),
    "gap_with_training_data": lambda pair, data: ppvae.gap(pair, data, EFFORT, train=data, progress=False),
    "to_arviz": lambda pair, data: ppvae.to_arviz(pair, data, num_samples=3, progress=False),
    "gradients": lambda pair, data: ppvae.gradient_statistics(
        pair, data, [ppvae.ELBO()], [2], repeats=16, progress=False
    ),
    "reconstruct": lambda pair, data: pair.reconstruct(data),
    "sample": lambda pair, data: (pair.check(data), pair.sample(5)),
    "calibration": lambda pair, data: (pair.check(data), ppvae.calibration(pair, num_simulations=20, progress=False)),
    "expected_coverage": lambda pair, data: (pair.check(data), ppvae.expected_coverage(pair, 20, progress=False)),
    "local_classifier_test": lambda pair, data: ppvae.local_classifier_test(pair, data, 20, progress=False),
    "simulate": lambda pair, data: simulate(pair, data),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow(30) if name == "gradients" else []) for name in CONSUMERS]
)
def test_every_consumer_takes_them(name):
    for data in (annealed(0.7), tuple(annealed(0.7).values())):
        pair = Watched()
        CONSUMERS[name](pair, data)
        assert pair.seen == {0.7}


def test_a_measurement_is_at_the_value_passed():
    """With beta 0.5: log N(x; 0, 1 + beta^2), by the exact guide."""
    pair, batch = Annealed().double(), map_batch(torch.Tensor.double, annealed(0.5))
    with torch.no_grad():
        pair.loc.fill_(1 / 1.25)
        pair.scale.fill_(1 / 1.25**0.5)
    found = ppvae.log_evidence(pair, batch, "iwae", num_particles=3, progress=False)
    exact = dist.Normal(torch.zeros((), dtype=torch.float64), 1.25**0.5).log_prob(batch["x"])
    torch.testing.assert_close(found.estimate, exact)


def test_files_keep_plain_values_and_leave_an_example_that_they_cannot_hold(tmp_path):
    pair, other = Annealed(), Annealed()
    pair.check(annealed(0.7))
    ppvae.save(pair, tmp_path / "pair")
    ppvae.load(other, tmp_path / "pair")
    assert passed_through(other.example) == {"beta": 0.7, "kind": "normal", "nothing": None}
    assert torch.equal(other.example["x"], pair.example["x"])
    pair.example = {"x": X, "net": NET}
    ppvae.save(pair, tmp_path / "pair")
    ppvae.load(other, tmp_path / "pair")
    assert other.example["beta"] == 0.7


def test_a_checkpoint_of_another_value_is_refused(tmp_path):
    settings = {"epochs": 1, "batch_size": 4, "checkpoint": tmp_path / "run", "progress": False}
    ppvae.fit(Annealed(), annealed(0.7), **settings)
    ppvae.fit(Annealed(), annealed(0.7), resume=True, **settings)
    with pytest.raises(ppvae.CheckpointError, match=r"data.beta: found float 0.7, expected float 0.8"):
        ppvae.fit(Annealed(), annealed(0.8), resume=True, **settings)


def test_a_transposed_table_is_asked_after():
    with pytest.raises(ValueError, match=r"sizes of dimension 0 are .*is one of them transposed\?"):
        as_batch((torch.zeros(3, 20), torch.zeros(20)))
