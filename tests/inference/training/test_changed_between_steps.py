"""What users' code changes of a pair between two steps holds for the next one, compiled, recorded or neither."""

import pytest
import torch
from support.small_pairs import Busy

import ppvae

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)).double()


class Annealed(Busy):
    """A factor on the data that the encoder sees: a buffer, and one that is an attribute."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.0))
        self.further = 1.0

    def guide(self, x):
        super().guide(x * self.factor * self.further)


def annealed():
    torch.manual_seed(0)
    return Annealed().double()


def assign(pair, number):
    pair.factor = torch.tensor(0.1 * number).double()


def fill(pair, number):
    pair.factor.fill_(0.1 * number)


def swap(pair, number):
    pair.decoder.weight.data = pair.decoder.weight.data.clamp(-0.2, 0.2)


def attribute(pair, number):
    pair.factor.fill_(1.0)
    pair.further = 0.1 * number


class Assigned(Annealed):
    """A call in training mode assigns the buffer; one that meets a negative number has no finite bound."""

    def guide(self, x):
        if self.training:
            self.factor = self.factor + 1.0
        super().guide(torch.where(x < 0, torch.nan, x))


CHANGES = [(assign, "factor: found"), (swap, "decoder.weight: found"), (attribute, "old values"), (fill, "")]


def trained(change, compiled):
    pair = annealed()

    def callback(run):
        change(run.pair, run.epochs)

    settings = {"epochs": 12, "batch_size": 10, "lr": 0.02, "progress": False}
    run = ppvae.fit(pair, X, compile=compiled, callbacks=[callback], **settings)
    return torch.as_tensor(run.history["bound_per_step"])


@pytest.mark.slow(10)
@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_by_callbacks(change, told, caplog):
    expected = trained(change, compiled=False)
    assert not caplog.text
    torch.testing.assert_close(trained(change, compiled=True), expected, rtol=1e-8, atol=1e-8)
    assert told in caplog.text
    assert bool(told) == ("training goes on uncompiled" in caplog.text)


@pytest.mark.slow(5)
@pytest.mark.parametrize(("change", "told"), [CHANGES[0], CHANGES[3]])
def test_in_a_loop_of_ones_own(change, told, caplog):
    bounds = []
    for compiled in (False, True):
        pair = annealed()
        trainer = ppvae.Trainer(pair, lr=0.02, compile=compiled)
        bounds.append([])
        for number in range(15):
            change(pair, number)
            bounds[-1].append(trainer.step(X[:20]))
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-8)
    assert told in caplog.text
    assert bool(told) == ("training goes on uncompiled" in caplog.text)


@pytest.mark.parametrize("change", [assign, swap])
def test_by_a_transform(change, monkeypatch):
    """Steps that are recorded are launched in stretches, so that a change comes in the middle of one."""
    monkeypatch.setattr("ppvae.inference.training.fitting.RECORD_AFTER", 3)
    bounds = []
    for compiled in (False, "auto"):
        pair, steps = annealed(), []

        def transform(x, pair=pair, steps=steps):
            steps.append(len(x))
            if len(steps) == 25:
                change(pair, 5)
            return x

        run = ppvae.fit(pair, X, steps=110, batch_size=10, transform=transform, compile=compiled, progress=False)
        bounds.append(torch.as_tensor(run.history["bound_per_step"]))
    assert torch.equal(*bounds)


def test_a_step_that_is_not_finite_gives_back_what_it_assigned():
    torch.manual_seed(0)
    pair = Assigned().double()
    trainer, factor = ppvae.Trainer(pair), pair.factor
    trainer.step(X[:20])
    assert (pair.factor, factor) == (1.0, 0.0)
    assigned = pair.factor
    with pytest.raises(ppvae.NonFiniteError):
        trainer.step(X[:20] - 0.5)
    assert pair.factor is assigned
    assert assigned == 1.0


def test_a_check_on_one_row_gives_back_what_it_assigned():
    pair = Assigned().double()
    pair.encoder[1] = torch.nn.Identity()
    ppvae.fit(pair, X[:41], epochs=1, batch_size=20, progress=False)
    assert pair.factor == 3.0
