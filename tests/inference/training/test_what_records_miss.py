"""What a trace does not show is found when the program is compared, or before: no gradient and no phase is lost."""

import logging
import random

import numpy as np
import pytest
import torch
from support.compiled_runs import run_as_traced
from support.users_code import DATA, Linear, assert_equal, recorded_soon, trained
from torch import nn
from torch.utils.checkpoint import checkpoint

import ppvae


@pytest.fixture
def made(monkeypatch):
    return recorded_soon(monkeypatch)


class Listed(Linear):
    """Keeps a parameter a second time, where no module looks for it."""

    def __init__(self):
        super().__init__()
        self.shrunk = [self.decoder.weight]

    def penalty(self):
        return 5 * sum(w.square().sum() for w in self.shrunk)


class ListedInModel(Listed):
    def penalty(self):
        return 0.0

    def more(self, x):
        return self.shrunk[0].sum()


class Transposed(Linear):
    """Shares memory with a parameter, and takes its gradient."""

    def __init__(self):
        super().__init__()
        self.turned = [self.decoder.weight.t()]

    def more(self, x):
        return self.turned[0].sum()


class Detached(Linear):
    """Shares a parameter's memory, and does not look at it."""

    def __init__(self):
        super().__init__()
        self.shown = self.decoder.weight.detach()


class Asked(Linear):
    def more(self, x):
        return sum(p.sum() for p in self.parameters() if isinstance(p, nn.Parameter)) / 10


class Checkpointed(Linear):
    def encoded(self, x):
        return checkpoint(self.encoder, x, use_reentrant=False)


class Drawing(Linear):
    def more(self, x):
        return random.random() / 10_000 if self.training else 0.0


class DrawingByNumpy(Linear):
    def more(self, x):
        return np.random.rand() / 10_000 if self.training else 0.0


class DrawingByItsOwn(Linear):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def more(self, x):
        return torch.randn(6, generator=self.generator) / 10 if self.training else 0.0


class Table(Linear):
    """Holds what NumPy cannot write back."""

    def __init__(self):
        super().__init__()
        self.table = np.array([1.0, np.nan])
        self.table.flags.writeable = False


class Deep(Linear):
    def __init__(self):
        super().__init__()
        self.nested = []
        for _ in range(3000):
            self.nested = [self.nested]


def weighted(pair, batch, beta):
    weights = ppvae.weights.draw_weights(pair, batch, 2)
    return weights.log_w.mean(0), weights.log_p.mean() - beta * weights.log_q.mean()


def closing_over_parameters(pair):
    learned = list(pair.decoder.parameters())

    def objective(pair, batch, step):
        value, surrogate = weighted(pair, batch, 1.0)
        return value, surrogate - sum(p.square().sum() for p in learned)

    return objective


closing_over_parameters.of_pair = True


class Phases:
    """Takes turns, where no watch looks: in what a C function keeps."""

    number = 2

    def __init__(self):
        self.turns = memoryview(bytearray(self.number))

    def __call__(self, pair, batch, step):
        turn = self.turns.tolist().index(max(self.turns))
        self.turns[turn], self.turns[(turn + 1) % self.number] = 0, 1
        return weighted(pair, batch, 0.5 if turn == self.number - 1 else 1.0)


class ThreePhases(Phases):
    number = 3


class Controller:
    """A schedule that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, step):
        self.calls += step < float("inf")
        return min(1.0, self.calls / 30)


def controlled(pair):
    return ppvae.ELBO(beta=Controller())


controlled.of_pair = True


def by_step(pair, batch, step):
    return weighted(pair, batch, torch.as_tensor(0.1 + 0.9 * step / 27).clamp(max=1.0))


def by_power(pair, batch, step):
    return weighted(pair, batch, 1 - 0.97**step)


RECORDED = {
    "a parameter that is shown, and not read": (Detached, {}),
    "a part that is run again for its gradient": (Checkpointed, {}),
    "an array that cannot be written to": (Table, {}),
    "lists in lists": (Deep, {}),
    "the step, in double precision": (Linear, {"objective": by_step}),
    "the same of a double pair": (lambda: Linear().double(), {"objective": by_step}),
    "a power of the step": (Linear, {"objective": by_power}),
}
SECOND = "reached by a second reference"
UNCOMPILED = {
    "a parameter in a list": (Listed, {}, SECOND),
    "the same in the model": (ListedInModel, {}, SECOND),
    "a view of a parameter": (Transposed, {}, SECOND),
    "parameters in a closure": (Linear, {"objective": closing_over_parameters}, SECOND),
    "a question whether it is a parameter": (Asked, {}, "the compiled bound is"),
    "Python's generator": (Drawing, {}, "random: found a Random that a call draws from"),
    "NumPy's generator": (DrawingByNumpy, {}, "numpy.random: found a RandomState that a call draws from"),
    "a generator of its own": (DrawingByItsOwn, {}, "found a Generator that a call draws from"),
    "a schedule that counts": (Linear, {"objective": controlled}, "Controller.calls: found"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_no_bit_differs_where_it_is_recorded(name, made):
    make, settings = RECORDED[name]
    assert_equal(trained(make, False, **settings), trained(make, "auto", **settings))
    assert len(made) == 1


@pytest.mark.parametrize("name", UNCOMPILED)
def test_no_bit_differs_where_it_is_not(name, made, caplog):
    make, settings, why = UNCOMPILED[name]
    runs = []
    for compile in (False, "auto"):
        random.seed(0)
        np.random.seed(0)
        with caplog.at_level(logging.INFO, "ppvae"):
            runs.append(trained(make, compile, **settings))
    assert_equal(*runs)
    assert not made
    assert why in caplog.text


@pytest.mark.parametrize("phases", [Phases, ThreePhases])
def test_an_objective_that_takes_turns_unseen_is_not_recorded(phases, made, caplog):
    with caplog.at_level(logging.INFO, "ppvae"):
        trained(Linear, "auto", objective=phases)
    assert not made
    assert (
        "training goes on uncompiled: a compiled gradient, buffer or other result is not the eager one" in caplog.text
    )


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_surrogate_that_changes_later_is_found_at_the_next_power_of_two(compile, caplog, monkeypatch):
    """Its bound stays the same."""
    run_as_traced(monkeypatch)
    recorded_soon(monkeypatch)
    batches = []

    def counted(self, x):
        batches.append(len(x))
        return x

    def objective(pair, batch, step):
        return weighted(pair, batch, 1.0 if len(batches) < 9 else 0.5)

    trained(Linear, compile, objective=objective, transform=counted)
    assert "training goes on uncompiled from step 9: a compiled gradient" in caplog.text


def test_compiled_gradients_are_not_lost_either(monkeypatch, caplog):
    run_as_traced(monkeypatch)
    trained(Listed, True)
    assert f"training goes on uncompiled: found a parameter of shape (6, 2) that is {SECOND}" in caplog.text


def test_nor_are_those_of_several_pairs_at_once():
    with pytest.raises(ppvae.ContractError, match=SECOND):
        ppvae.fit_many(Listed, DATA, seeds=2, steps=2, batch_size=16, progress=False)


def test_an_objective_of_several_pairs_is_watched():
    class Counting:
        calls = 0

        def __call__(self, pair, batch, step):
            self.calls += 1
            return weighted(pair, batch, min(1.0, self.calls / 50))

    with pytest.raises(ppvae.ContractError, match=r"Counting\.calls: found"):
        ppvae.fit_many(Linear, DATA, Counting(), seeds=2, steps=2, batch_size=16, progress=False)


def test_nor_are_those_that_are_looked_at(caplog, monkeypatch):
    run_as_traced(monkeypatch)
    settings = {"repeats": 16, "seed": 0, "progress": False}
    torch.manual_seed(0)
    pair = ListedInModel()
    expected, found = (
        ppvae.gradient_statistics(pair, DATA[:8], [ppvae.ELBO()], [1], compile=compile, **settings)
        for compile in (False, True)
    )
    assert f"gradients are taken uncompiled: found a parameter of shape (6, 2) that is {SECOND}" in caplog.text
    np.testing.assert_allclose(found.mean_norm, expected.mean_norm, rtol=1e-4)
