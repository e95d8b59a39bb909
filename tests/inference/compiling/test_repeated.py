"""Measurements by compiled programs: the same weights as Pyro's handlers give, and the way back where none can be."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.compiled_runs import run_as_traced
from torch.utils._pytree import tree_flatten

import ppvae
from ppvae.inference.compiling import repeated
from ppvae.inference.runtime import chunks
from ppvae.models import VAE, GaussianMixture

EFFORT = ppvae.Effort("iwae", 2000, num_samples=2000, ascent=None)


@pytest.fixture
def compile_soon(monkeypatch):
    """Without Pyro's checks of values, as measuring runs: they cannot be traced."""
    monkeypatch.setattr(repeated, "COMPILE_AFTER", 2)
    with pyro.validation_enabled(False):
        yield


class Programs:
    """Counts what was compiled, without what could not be."""

    def __init__(self, monkeypatch):
        self.made = 0
        plain = repeated.compiled

        def counting(*args, **options):
            program = plain(*args, **options)
            self.made += 1
            return program

        monkeypatch.setattr(repeated, "compiled", counting)


@pytest.mark.slow(40)
def test_same_noise_same_measurement(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 200_000)
    pair, x = VAE.mlp(6, 2, [8]), torch.randn(60, 6).gt(0).float()
    by_pyro = ppvae.gap(pair, x, EFFORT, seed=0, progress=False)
    monkeypatch.setattr(repeated, "COMPILE_AFTER", 2)
    programs = Programs(monkeypatch)
    found = ppvae.gap(pair, x, EFFORT, seed=0, progress=False)
    assert programs.made >= 2
    for name in ("log_evidence", "elbo"):
        for field in ("estimate", "std_error"):
            expected = getattr(getattr(by_pyro, name), field)
            torch.testing.assert_close(getattr(getattr(found, name), field), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow(6)
def test_batches_in_turn_and_other_shapes(compile_soon, monkeypatch):
    programs, pair = Programs(monkeypatch), VAE.mlp(6, 2, [8])
    x = torch.randn(8, 6).gt(0).float()
    draws = repeated.Repeated(pair, lambda pair, batch, num: pair.log_weights(batch, num).log_w)
    with torch.no_grad():
        for batch in (x[:3], x[3:6], x[2:5], x[6:], x[:3]):
            torch.manual_seed(1)
            found = draws(batch, 4)
            torch.manual_seed(1)
            torch.testing.assert_close(found, pair.log_weights(batch, 4).log_w)
    assert programs.made == 1


@pytest.mark.slow(8)
def test_enumerated_sites(compile_soon, monkeypatch):
    programs, pair = Programs(monkeypatch), GaussianMixture(num_components=3, num_features=2)
    x = torch.randn(40, 2)
    draws = repeated.Repeated(pair, lambda pair, batch, num: pair.log_weights(batch, num).log_w)
    with torch.no_grad():
        found = [draws(x, 5) for _ in range(3)]
    assert programs.made == 1
    for log_w in found:  # its guide is the posterior: every weight is the evidence
        torch.testing.assert_close(log_w, pair.log_prob(x).expand(5, -1), rtol=1e-4, atol=1e-4)


def test_arguments_of_other_kinds_have_programs_of_their_own(compile_soon, monkeypatch):
    run_as_traced(monkeypatch)
    programs, pair, x, y = Programs(monkeypatch), VAE.mlp(6, 2, [8]), torch.ones(3), torch.arange(3.0)

    def difference(pair, batch, factor):
        first, second = batch.values() if isinstance(batch, dict) else batch[::-1]
        return (first - second) * factor if isinstance(factor, int) else first + second

    run = repeated.Repeated(pair, difference)
    arguments = [({"a": x, "b": y}, 2), ({"b": x, "a": y}, 2), ((x, y), 2), ([x, y], 2), ((x, y), 3), ((x, y), 2.0)]
    with torch.no_grad():
        for args in arguments * 3:
            torch.testing.assert_close(run(*args), difference(pair, *args))
    assert programs.made == len(arguments)


def test_kinds_are_told_apart_by_containers_keys_shapes_and_types():
    x = torch.ones(3)
    others = [x], (x,), {"a": x}, {"b": x}, (x, 1), (x, True), (x, 1.0), (x, None), ((x,), 1), x.double(), x[:2]
    kinds = [repeated.kind_of(args) for args in others]
    assert len(set(kinds)) == len(others)
    assert kinds == [repeated.kind_of(args) for args in others]


@pytest.mark.slow(6)
def test_structures_need_no_hash(compile_soon, monkeypatch):
    """In some versions of torch one with a dictionary has none."""
    monkeypatch.setattr(type(tree_flatten({})[1]), "__hash__", None)
    programs, x = Programs(monkeypatch), torch.ones(3)
    run = repeated.Repeated(VAE.mlp(6, 2, [8]), lambda pair, batch: 2 * batch["a"])
    with torch.no_grad():
        assert [run({"a": x}).tolist() for _ in range(3)] == [[2.0] * 3] * 3
    assert programs.made == 1


def test_recorded_it_is_the_same_to_the_bit(monkeypatch):
    monkeypatch.setattr(repeated, "RECORD_AFTER", 2)
    programs, pair, x = Programs(monkeypatch), VAE.mlp(6, 2, [8]), torch.randn(8, 6).gt(0).float()
    draws = repeated.Repeated(pair, lambda pair, batch, num: pair.log_weights(batch, num).log_w, after=4)
    found = []
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(3):
            torch.manual_seed(1)
            found.append(draws(x, 5))
    assert programs.made == 1
    assert torch.equal(found[0], found[2])
    assert not torch.equal(draws(x, 5), found[0])  # other noise


class Counting(ppvae.Pair):
    """Changes what it computes, from call to call, by a number that no program sees."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def model(self, x):
        self.calls += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0 if self.calls < 50 else 2.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_a_pair_that_counts_its_calls_is_not_recorded(monkeypatch, caplog):
    monkeypatch.setattr(repeated, "RECORD_AFTER", 2)
    pair, x = Counting(), torch.randn(8)
    draws = repeated.Repeated(pair, lambda pair, batch, num: pair.log_weights(batch, num).log_w, after=1000)
    with caplog.at_level(logging.INFO, "ppvae"), torch.no_grad(), pyro.validation_enabled(False):
        draws(x, 5)
        calls = pair.calls
        draws(x, 5)
        assert draws(x, 5).isfinite().all()
    assert pair.calls == calls + 2  # tracing does not count
    (record,) = caplog.records
    assert record.message.startswith(f"measuring goes on uncompiled: Counting.calls: found {calls + 4} after {calls}")


class Smoothing(Counting):
    """Changes a buffer at each call, in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def model(self, x):
        self.mean.lerp_(x.mean(), 0.1)
        super().model(x)


def test_a_buffer_that_a_call_changes_is_refused_and_changes_no_more_often(monkeypatch, caplog):
    monkeypatch.setattr(repeated, "RECORD_AFTER", 2)
    pair, x = Smoothing().eval(), torch.randn(8)

    def draws(pair, batch):
        return pair.mean.lerp_(batch.mean(), 0.1) + batch

    run = repeated.Repeated(pair, draws, after=1000)
    with caplog.at_level(logging.INFO, "ppvae"), torch.no_grad():
        found = [run(x) for _ in range(3)]
        pair.mean.zero_()
        expected = [draws(pair, x) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert "mean: found a buffer that a call changes in evaluation mode" in caplog.text


class Branching(ppvae.Pair):
    """Cannot be traced: it decides something by a value."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            scale = 1.0 if z.isfinite().all() else 2.0
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_what_cannot_be_compiled_is_measured_all_the_same(compile_soon, caplog):
    draws = repeated.Repeated(Branching(), lambda pair, batch, num: pair.log_weights(batch, num).log_w)
    with caplog.at_level(logging.WARNING, "ppvae"), torch.no_grad():
        assert all(draws(torch.zeros(3), 5).isfinite().all() for _ in range(4))
    assert [record.message.split(":")[0] for record in caplog.records] == ["measuring goes on uncompiled"]
