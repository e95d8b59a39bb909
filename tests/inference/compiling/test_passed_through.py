"""What is no data is part of a compiled program: another value is another program, or none, and never a stale one."""

import logging

import pyro
import pytest
import torch
from support.annealed import Annealed, annealed
from support.compiled_runs import run_as_traced
from torch import nn

import ppvae
from ppvae.inference.compiling import inputs, repeated

BETAS = [0.9, 0.9, 0.9, 0.1, 0.2, 0.9, -0.0, 0.0]


def bounds(compile, as_value):
    torch.manual_seed(0)
    trainer = ppvae.Trainer(Annealed(), lr=0.05, compile=compile)
    return [trainer.step(annealed(as_value(beta))) for beta in BETAS], trainer


@pytest.fixture(autouse=True)
def _traced(monkeypatch):
    """Which program is for which values does not depend on what the compiler makes of them."""
    run_as_traced(monkeypatch)


@pytest.mark.slow(3)
@pytest.mark.parametrize("as_value", [float, torch.tensor], ids=["number", "tensor"])
def test_an_annealing_factor_that_changes(as_value, caplog):
    with caplog.at_level(logging.WARNING, "ppvae"):
        found, trainer = bounds(True, as_value)
    assert trainer.programs.seconds > 0
    torch.testing.assert_close(found, bounds(False, as_value)[0], rtol=1e-4, atol=1e-5)
    said = [record.message for record in caplog.records]
    assert len(said) == (as_value is float)  # a tensor's value is an input of the program
    assert all("torch.tensor(number)" in message for message in said)


@pytest.mark.slow(3)
def test_repeated_calls_with_other_values(monkeypatch):
    monkeypatch.setattr(repeated, "COMPILE_AFTER", 2)
    pair = Annealed()
    draws = repeated.Repeated(pair, lambda pair, batch: pair.log_weights(batch, 3).log_w)
    with torch.no_grad(), pyro.validation_enabled(False):
        for beta in [0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1]:
            torch.manual_seed(1)
            found = draws(annealed(beta))
            torch.manual_seed(1)
            torch.testing.assert_close(found, pair.log_weights(annealed(beta), 3).log_w)


def test_what_may_change_unseen_is_not_written_into_a_program():
    with pytest.raises(inputs.CannotCompileError, match="a Linear among"):
        inputs.taken_apart({"x": torch.ones(3), "net": nn.Linear(2, 1)})
    assert inputs.kind_of((torch.ones(3), 0.0)) != inputs.kind_of((torch.ones(3), -0.0))
    assert inputs.kind_of((torch.ones(3), float("nan"))) == inputs.kind_of((torch.ones(3), float("nan")))
