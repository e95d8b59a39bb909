"""Steps that are launched before the bounds of those before them are read: as if they were taken one by one."""

import contextlib
import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
from support.compiled_runs import DATA, graph_on_a_cpu, run_as_traced
from support.small_pairs import Busy
from torch import Tensor

import ppvae
from ppvae import ELBO, Checkpoint, LinearWarmup, NonFiniteError, StepOptions
from ppvae.inference.compiling import cuda_graph
from ppvae.inference.training import compiled_step, loop, steps
from ppvae.inference.training.trainer import Trainer
from ppvae.models import LinearVAE

LINEAR = partial(LinearVAE, 4, 2)
SMOOTH = StepOptions(clip_norm=1.0, ema=0.8)


@pytest.fixture
def launched(monkeypatch):
    """Programs are made at once; the steps that are launched, in a list."""
    found = []
    launch = Trainer.launch_step

    def launch_step(self, *args):
        with unread():
            report = launch(self, *args)
        found.append(self.steps - 1)
        return report

    run_as_traced(monkeypatch)
    monkeypatch.setattr(Trainer, "launch_step", launch_step)
    return found


@contextlib.contextmanager
def unread():
    """Refuses what would make the host wait for a GPU: to read a tensor, or to copy one to it."""

    def refused(*args, **kwargs):
        raise AssertionError("a tensor is read, or made from a number, while steps are launched")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero"):
            patch.setattr(Tensor, name, refused)
        patch.setattr(torch, "tensor", refused)
        yield


def graphs_on_a_cpu(monkeypatch):
    monkeypatch.setattr(compiled_step, "GRAPHED", ("cpu",))
    monkeypatch.setattr(cuda_graph, "recorded", graph_on_a_cpu)


def train(make=LINEAR, compile=True, **settings):
    """Up to sixty steps, six in each epoch, with a smaller last one."""
    torch.manual_seed(1)
    settings = {"steps": 60, "batch_size": 12, "lr": 1e-2, "progress": False, "compile": compile} | settings
    return ppvae.fit(make(), DATA[:65], settings.pop("objective", ELBO()), **settings)


def assert_equal(one, other):
    assert (one.steps, one.epochs, one.stopped) == (other.steps, other.epochs, other.stopped)
    assert one.history["bound_per_step"].tolist() == other.history["bound_per_step"].tolist()
    for name in ("bound", "learning_rate"):
        assert one.history[name].tolist() == other.history[name].tolist(), name
    for (name, p), q in zip(one.pair.state_dict().items(), other.pair.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


@pytest.fixture
def one_by_one(monkeypatch):
    """Trains without launching anything, each epoch by itself."""

    def run(*args, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(steps.Steps, "_room", lambda self, most: 0)
            patch.setattr(loop, "Steps", lambda *of: steps.Steps(*of[:-1], joined=False))
            return train(*args, **settings)

    return run


CASES = {
    "plain": {},
    "busy": {"make": Busy, "objective": ELBO(beta=LinearWarmup(8)), "transform": lambda x: x + torch.randn_like(x)},
    "smooth": {"options": SMOOTH, "optimizer": "adamw", "schedule": lambda done: 0.1**done},
    "weighted": {"weights": torch.arange(1.0, 66.0)},
    "whole batches": {"drop_last": True},
    "joined epochs": {"batch_size": 13, "schedule": lambda done: 0.1**done},
    "joined epochs, the last cut short": {"batch_size": 13, "steps": 58},
    "one batch": {"batch_size": 65},
    "less than one batch": {"batch_size": 100},
}


@pytest.mark.parametrize("name", CASES)
def test_no_bit_differs(name, launched, one_by_one):
    found = train(**CASES[name])
    assert len(launched) > 20
    assert_equal(one_by_one(**CASES[name]), found)


@pytest.mark.parametrize("compile", [True, "auto"])
@pytest.mark.parametrize("name", ["busy", "smooth", "weighted", "joined epochs"])
def test_no_bit_differs_from_a_graph(name, compile, launched, one_by_one, monkeypatch, caplog):
    """With a stand-in for CUDA graphs: each result is where the one before it was, and updates are masked."""
    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    alone = one_by_one(**CASES[name], compile=compile)
    graphs_on_a_cpu(monkeypatch)
    found = train(**CASES[name], compile=compile)
    assert len(launched) > 20
    assert "not as a CUDA graph" not in caplog.text
    assert_equal(alone, found)


def test_recorded_steps_are_launched_too(launched, one_by_one, monkeypatch):
    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    found = train(compile="auto")
    assert len(launched) > 20
    assert_equal(train(compile=False), found)


def test_smaller_batches_and_comparisons_are_not_launched(launched):
    train()
    assert not [step for step in launched if step % 6 == 5 or step in (0, 1, 2, 4, 8, 16, 32)]


def test_other_optimizers_schedulers_and_sources_take_steps_one_by_one(launched):
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=60, cycle_momentum=False)
    train(schedule=cycle)
    train(optimizer=torch.optim.RMSprop)
    stream = torch.utils.data.DataLoader(DATA, 10)  # whose batches cannot be taken anew
    ppvae.fit(LINEAR(), stream, epochs=3, compile=True, progress=False)
    assert not launched


BATCHES = pytest.mark.parametrize("batch_size", [12, 13])
"""With the smaller one, epochs end in a batch that is smaller still; with the other they are joined."""


@BATCHES
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("bad", [20, 24, 26, 28])
def test_a_step_that_is_not_finite_ends_training_as_if_it_had_been_seen_at_once(
    bad, graphs, batch_size, launched, one_by_one, monkeypatch
):
    """In the middle of a stretch or an epoch, at its start and at its end; in a graph its update changes nothing."""

    def objective(pair, batch, step=None):
        value, surrogate = ELBO()(pair, batch)
        return value, surrogate * torch.where(torch.as_tensor(step) == bad, torch.nan, 1.0)

    if graphs:
        graphs_on_a_cpu(monkeypatch)
    errors = []
    for run in (train, one_by_one):
        with pytest.raises(NonFiniteError) as caught:
            run(Busy, objective=objective, options=SMOOTH, batch_size=batch_size)
        errors.append(caught.value)
    assert bad in launched
    assert str(errors[0]) == str(errors[1])
    assert errors[0].fit.steps == bad
    assert_equal(errors[1].fit, errors[0].fit)


def test_an_update_in_a_graph_that_is_not_finite_changes_nothing_and_counts_no_step(monkeypatch):
    graphs_on_a_cpu(monkeypatch)
    run_as_traced(monkeypatch)
    trainer = Trainer(LINEAR(), compile=True, options=SMOOTH)
    for _ in range(2):
        trainer.step(DATA[:8])
    with trainer.running():
        before = [t.clone() for t in trainer.update.changing()]
        good = trainer.launch_step(DATA[:8], None)
        after = [t.clone() for t in trainer.update.changing()]
        bad = trainer.launch_step(DATA[:8] * torch.inf, None)
    assert [good[1], bad[1]] == [0, 1]
    assert all((b != a).any() for b, a in zip(before, after, strict=True))
    assert all(torch.equal(a, now) for a, now in zip(after, trainer.update.changing(), strict=True))


def test_a_step_that_cannot_be_launched_is_taken_anew(launched, one_by_one, monkeypatch):
    """As where memory has run out for a moment, when noise is already drawn."""
    launch, calls = compiled_step.CompiledStep.launch, iter(range(1000))

    def failing(self, *args):
        if next(calls) == 20:
            torch.rand(3)
            raise MemoryError
        return launch(self, *args)

    monkeypatch.setattr(compiled_step.CompiledStep, "launch", failing)
    found = train(**CASES["busy"])
    assert next(calls) > 21
    assert_equal(one_by_one(**CASES["busy"]), found)


FIRST = 4
"""The call of a transform at the first step; the three before it check the data."""


class Refusing:
    """A transform that raises at one of its calls, once."""

    def __init__(self, call, error):
        self.left, self.error = call, error

    def __call__(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x + torch.randn_like(x)


@BATCHES
@pytest.mark.parametrize("call", [24, 29, 30])
def test_a_transform_that_interrupts_ends_training_at_its_step(call, batch_size, launched, one_by_one):
    settings = {"batch_size": batch_size}
    found, alone = (run(transform=Refusing(call, KeyboardInterrupt()), **settings) for run in (train, one_by_one))
    assert found.stopped == "interrupted"
    assert found.steps == call - FIRST
    assert_equal(alone, found)


@BATCHES
@pytest.mark.parametrize("call", [24, 29, 30])
def test_a_transform_that_raises_leaves_the_pair_as_before_its_step(call, batch_size, launched, one_by_one):
    pairs = []

    def make():
        pairs.append(LINEAR())
        return pairs[-1]

    for run in (train, one_by_one):
        with pytest.raises(OSError, match="no such image"):
            run(make, transform=Refusing(call, OSError("no such image")), batch_size=batch_size)
    for p, q in zip(*(pair.parameters() for pair in pairs), strict=True):
        assert torch.equal(p, q)


def test_ctrl_c_ends_training_after_the_stretch_and_it_goes_on_bit_for_bit(launched, tmp_path):
    whole = train(transform=lambda x: x + torch.randn_like(x))
    calls = iter(range(1000))

    def interrupting(x):
        if next(calls) == 28:
            os.kill(os.getpid(), signal.SIGINT)
        return x + torch.randn_like(x)

    settings = {"checkpoint": tmp_path / "run", "resume": True, "transform": interrupting}
    stopped = train(**settings)
    assert stopped.stopped == "interrupted"
    assert 24 < stopped.steps < 32
    assert_equal(whole, train(**settings))


def test_checkpoints_are_written_between_stretches(launched, tmp_path, monkeypatch):
    at = []
    monkeypatch.setattr(loop, "store", lambda run, path: at.append(run.trainer.steps))
    train(checkpoint=Checkpoint(tmp_path / "run", every=5), batch_size=4)
    assert {*range(5, 61, 5)} <= set(at)
    assert launched


def test_a_batch_that_the_program_is_not_for_is_taken_uncompiled(launched, one_by_one, caplog):
    """At the thirtieth call, and from then on none are launched."""

    def varied():
        calls = iter(range(1000))
        return lambda x: (x, 2.0 if next(calls) >= 30 else 1.0)

    class Scaled(LinearVAE):
        def model(self, x, scale):
            super().model(x * scale)

        def guide(self, x, scale):
            super().guide(x * scale)

    make = partial(Scaled, 4, 2)
    found = train(make, transform=varied())
    assert "only steps like step 2 are compiled" in caplog.text
    assert launched
    assert max(launched) < 30
    assert_equal(one_by_one(make, transform=varied()), found)


def test_a_stretch_lasts_a_tenth_of_a_second(launched, monkeypatch):
    """Else Ctrl-C would wait: a step of 30 milliseconds is in a stretch of three."""
    now = [0.0]

    def slow(x):
        now[0] += 0.03
        return x

    monkeypatch.setattr(steps.time, "perf_counter", lambda: now[0])
    lengths = []
    stretch = steps.Steps._stretch
    monkeypatch.setattr(steps.Steps, "_stretch", lambda self, num: lengths.append(num) or stretch(self, num))
    train(transform=slow, batch_size=1, steps=64)
    assert max(lengths) == 3


def test_nothing_is_launched_over_what_is_done_between_epochs(launched, tmp_path):
    """Each epoch has an end of its own then; of joined epochs, some end at the same time."""
    seen = []
    for settings in (
        {"held_out": DATA[:8]},
        {"checkpoint": tmp_path / "run"},
        {"callbacks": [lambda fit: seen.append(fit.steps)]},
        {"schedule": partial(torch.optim.lr_scheduler.StepLR, step_size=1)},
    ):
        found = train(batch_size=13, **settings)
        assert (np.diff(found.history["seconds"]) > 0).all()
    assert seen == list(range(5, 61, 5))
    assert launched
    assert not (np.diff(train(batch_size=13).history["seconds"]) > 1e-4).all()
