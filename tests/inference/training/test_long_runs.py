"""Which runs are compiled without being told to: those in which compiling pays off."""

import sys
from functools import partial

import pytest
import torch
from support.compiled_runs import trained

from ppvae import ELBO
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.models import LinearVAE

auto = partial(trained, lambda: LinearVAE(4, 2), ELBO(), "auto")


@pytest.fixture
def compiled(monkeypatch):
    """A list with an entry for each step that was to be compiled, which is recorded in its place."""
    steps = []

    def step(*args):
        assert args[-1] is False, "compiled, not recorded"
        steps.append(CompiledStep(*args[:-1], True))
        return steps[-1]

    monkeypatch.setattr("ppvae.inference.training.step_programs.CompiledStep", step)
    return steps


@pytest.fixture
def pays_off(monkeypatch):
    """Sets the number of steps from which on compiling pays off, and the elements that halve it."""

    def at(steps, elements=10**9):
        for name, value in {"COMPILE_STEPS": steps, "ELEMENTS": elements}.items():
            monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], name, value)

    return at


def test_long_runs_are_compiled_and_short_ones_are_not(compiled, pays_off):
    auto()
    assert not compiled
    pays_off(13)
    auto()
    assert not compiled
    pays_off(12)
    auto()
    assert len(compiled) == 1
    with pytest.raises(ValueError, match="compile: found 'yes', expected 'auto', True or False"):
        trained(lambda: LinearVAE(4, 2), ELBO(), "yes")


def test_the_larger_the_batches_the_fewer_steps_it_takes(compiled, pays_off):
    pays_off(24, elements=1000)
    auto(batch_size=2)
    assert not compiled
    auto(batch_size=50)
    assert len(compiled) == 1


def test_cycled_momentum_keeps_a_long_run_uncompiled(compiled, pays_off):
    pays_off(1)
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12)
    assert auto(schedule=cycle)[1].stopped == "completed"
    assert not compiled


def test_a_run_that_is_given_more_steps_goes_on_uncompiled_to_the_same_bits(compiled, pays_off, tmp_path):
    whole, _ = auto()
    auto(steps=8, checkpoint=tmp_path / "run")
    pays_off(12)
    halves, run = auto(checkpoint=tmp_path / "run", resume=True)
    assert (run.steps, compiled) == (12, [])
    for name, p in whole.named_parameters():
        assert torch.equal(p, halves.get_parameter(name)), name


def test_a_compiled_run_goes_on_compiled_wherever_compiling_pays_off_now(compiled, pays_off, tmp_path):
    pays_off(8)
    auto(steps=8, checkpoint=tmp_path / "run")
    pays_off(13)
    assert auto(checkpoint=tmp_path / "run", resume=True)[1].steps == 12
    assert len(compiled) == 2
