"""What `fit` refuses, before the first step, and how it says so."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.small_pairs import Coins, Shift, X, quiet
from torch import nn

from ppvae import ContractError, Trainer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"epochs": 1, "steps": 1}, "exactly one"),
        ({"epochs": 0}, "epochs: found 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size: found 0"),
        ({"epochs": 1, "resume": True}, "without checkpoint"),
        ({"epochs": 1, "seed": -1}, "seed: found -1"),
        ({"epochs": 1, "optimizer": "adamm"}, "optimizer: found 'adamm'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quiet(Shift(), X, **arguments)


def test_bad_data_are_refused_with_their_index():
    with pytest.raises(ValueError, match=r"\(13,\)"):
        quiet(Shift(), torch.where(torch.arange(50) == 13, math.nan, X), epochs=1)


@pytest.mark.parametrize("name", ["data", "held_out"])
def test_data_outside_the_support_are_refused_before_training(name):
    good = torch.ones(300)
    bad = good.clone()
    bad[[211, 250]] = 0.5
    pair = Coins()
    with pytest.raises(ValueError, match=f"{name}: found data point 211 outside .*support"):
        quiet(pair, **({"data": good, "held_out": good} | {name: bad}), epochs=1, batch_size=32)
    assert pair.logit.item() == 0.0


def test_a_pair_whose_data_are_refused_stays_as_it_was():
    """Its example, how it is run, and that it passed."""
    pair, good = Coins(), torch.ones(40)
    quiet(pair, good, epochs=1)
    pair.checked(good)
    before = (pair.example, pair.particles, copy.deepcopy(pair.checked_kinds))
    with pytest.raises(ValueError, match=r"outside .*support"):
        quiet(pair, torch.cat([torch.zeros(8), torch.full((32,), 0.5)]), epochs=1, batch_size=8)
    assert pair.example is before[0]
    assert (pair.particles, pair.checked_kinds) == before[1:]


def test_broken_pairs_are_refused():
    class NoPlate(Shift):
        def guide(self, x):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(ContractError, match="z"):
        quiet(NoPlate(), X, epochs=1)


def test_nothing_to_learn_is_refused():
    pair = Shift().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        quiet(pair, X, epochs=1)


class Both(Shift):
    """Has a second parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))

    def penalty(self):
        return (self.scale - 1).square()


def freeze(pair):
    pair.scale.requires_grad_(False)


def free(pair):
    pair.scale.requires_grad_(True)


def replace(pair):
    pair.scale = nn.Parameter(torch.tensor(3.0))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("change", "at_first", "found"),
    [(freeze, free, "is not to be"), (free, freeze, "is to be"), (replace, free, "has been replaced, and is to be")],
)
def test_other_parameters_to_learn_than_at_the_start_are_refused(change, at_first, found, compiled):
    """The optimizer would never move them."""
    pair = Both()
    at_first(pair)
    with pytest.raises(ValueError, match=f"pair: found that parameter 'scale' {found} learned, unlike at the start"):
        quiet(pair, X, epochs=3, callbacks=[lambda run: change(run.pair)], compile=compiled)
    quiet(pair, X, epochs=1, lr=0.1)  # the remedy
    assert pair.scale.item() == pytest.approx({freeze: 0.0, free: 0.1, replace: 2.9}[change], abs=0.01)


def test_a_trainer_has_its_parameters_all_along():
    pair = Both()
    trainer = Trainer(pair)
    trainer.step(X)
    freeze(pair)
    with pytest.raises(ValueError, match="pair: found that parameter 'scale' is not to be learned"):
        trainer.step(X)
    free(pair)
    trainer.step(X)
    assert trainer.steps == 2


def test_a_callback_that_takes_nothing_is_refused_before_training():
    pair = Shift()
    before = [p.clone() for p in pair.parameters()]
    with pytest.raises(TypeError, match=r"callbacks\[1\]: found a function, expected a function of the Fit so far"):
        quiet(pair, X, epochs=1, callbacks=[print, lambda: None])
    assert all(torch.equal(p, old) for p, old in zip(pair.parameters(), before, strict=True))
