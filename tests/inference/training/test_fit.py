"""Training: it learns, it leaves the process as it found it, and it refuses what cannot work."""

import contextlib
import functools
import math
import os
import signal
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.small_pairs import Coins, Shift, X, bound, quiet
from torch import nn

from ppvae import HeldOut
from ppvae.inference.runtime.isolation import denormals_flushed
from ppvae.inference.training.fitting import fit
from ppvae.inference.training.nonfinite import NonFiniteError


class Misbehaving(Shift):
    """Does as told, once, in the model at a given call after training began."""

    def __init__(self, at, deed):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.at, self.deed = at, deed

    def model(self, x):
        if self.training:
            self.calls += 1
            if self.calls == self.at:
                return self.deed(super().model, x)
        return super().model(x)


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads gain nothing on problems this small, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- learning -----------------------------------------------------------------------------------------------------


def test_finds_the_maximum_likelihood():
    pair = Shift()
    result = quiet(pair, X, epochs=60, batch_size=50, optimizer="sgd", lr=1.0)
    torch.testing.assert_close(pair.shift.detach(), X.mean(), atol=1e-4, rtol=0)
    assert result.history["bound"][-1] == pytest.approx(pair.log_prob(X).mean().item(), abs=1e-4)
    assert result.pair is pair
    assert (result.epochs, result.steps, result.stopped) == (60, 60, "completed")


def test_objective_is_the_elbo_unless_given():
    pair = Shift()
    result = fit(pair, X, epochs=1, progress=False)
    assert repr(result).startswith("Fit(Shift by ELBO(")


def test_history_holds_the_values_reported_not_the_surrogates():
    def shifted(pair, batch, step=math.inf):
        value, surrogate = bound(pair, batch)
        return value, 100 + surrogate

    pair, rows_seen = Shift(), []
    result = quiet(
        pair, X, objective=shifted, epochs=2, batch_size=20, lr=1e-9, transform=lambda x: rows_seen.append(len(x)) or x
    )
    assert rows_seen[-6:] == [20, 20, 10] * 2
    assert {name: len(values) for name, values in result.history.items()} == {
        "bound": 2, "learning_rate": 2, "seconds": 2, "bound_per_step": 6,
    }  # fmt: skip
    np.testing.assert_allclose(result.history["bound"], Shift().log_prob(X).mean().item(), rtol=1e-5)  # every row once
    assert (np.diff(result.history["seconds"]) > 0).all()


def test_an_objective_needs_no_default_for_the_step():
    """As documented: a function of pair, batch and step."""

    def plain(pair, batch, step):
        return bound(pair, batch)

    assert quiet(Shift(), X, objective=plain, steps=3).steps == 3


def test_objective_is_told_the_step():
    told = []

    def listening(pair, batch, step=math.inf):
        told.append(step)
        return bound(pair, batch)

    quiet(Shift(), X, objective=listening, epochs=2, batch_size=25, held_out=X)
    assert [step for step in told if step != math.inf] == [0, 1, 2, 3]


def test_steps_may_end_within_an_epoch():
    result = quiet(Shift(), X, steps=5, batch_size=25)
    assert (result.steps, result.epochs, len(result.history["bound"])) == (5, 3, 3)


def test_schedule_multiplies_the_rate():
    result = quiet(Shift(), X, epochs=4, batch_size=25, lr=0.5, schedule=lambda done: 0.1**done)
    np.testing.assert_allclose(result.history["learning_rate"], 0.5 * 0.1 ** (np.array([1, 3, 5, 7]) / 8))


def test_batches_may_be_dicts_and_arrays():
    class Named(Shift):
        def model(self, x, scale):
            super().model(x * scale)

        def guide(self, x, scale):
            super().guide(x * scale)

    data = {"x": X.numpy(), "scale": np.ones(50, np.float32)}
    named, plain = Named(), Shift()
    quiet(named, data, epochs=2, batch_size=20)
    quiet(plain, X, epochs=2, batch_size=20)
    assert torch.equal(named.shift, plain.shift)


def test_optimizer_may_be_a_function():
    by_name, by_function = Shift(), Shift()
    quiet(by_name, X, epochs=2, optimizer="adamw", lr=0.1)
    quiet(by_function, X, epochs=2, optimizer=functools.partial(torch.optim.AdamW, fused=True), lr=0.1)
    assert torch.equal(by_name.shift, by_function.shift)


def test_frozen_parameters_stay():
    pair = Shift()
    pair.frozen = nn.Parameter(torch.tensor(7.0), requires_grad=False)
    quiet(pair, X, epochs=1, optimizer=functools.partial(torch.optim.AdamW, weight_decay=0.5), lr=0.1)
    assert pair.frozen.item() == 7.0


def test_same_seed_same_bits():
    pairs = [Shift() for _ in range(3)]
    for pair, seed in zip(pairs, (5, 5, 6), strict=True):
        torch.rand(3)  # the caller's generator does not matter
        quiet(pair, X, epochs=2, batch_size=20, lr=0.1, seed=seed)
    assert torch.equal(pairs[0].shift, pairs[1].shift)
    assert not torch.equal(pairs[0].shift, pairs[2].shift)


def test_transform_makes_dynamic_binarization():
    pair = Coins()
    quiet(pair, torch.full((400,), 0.8), epochs=60, batch_size=100, lr=0.05, transform=torch.bernoulli)
    assert pair.logit.sigmoid().item() == pytest.approx(0.8, abs=0.03)  # standard error with 24000 draws: 0.003


# --- held-out data ------------------------------------------------------------------------------------------------


def test_held_out_bound_is_that_of_the_pair_at_the_time():
    bounds = []
    result = quiet(
        Shift(),
        X,
        epochs=3,
        lr=0.1,
        held_out=X + 1,
        callbacks=[lambda f: bounds.append(f.pair.log_prob(X + 1).mean().item())],
    )
    np.testing.assert_allclose(result.history["held_out"], bounds, rtol=1e-5)


def test_held_out_data_are_measured_as_they_are():
    """Only training data are transformed: held-out data are drawn once, by whoever holds them."""
    plain = quiet(Shift(), X, epochs=1, batch_size=20, lr=1e-9, held_out=X)
    shifted = quiet(Shift(), X, epochs=1, batch_size=20, lr=1e-9, held_out=X, transform=lambda x: x + 5)
    np.testing.assert_allclose(shifted.history["held_out"], plain.history["held_out"], rtol=1e-5)
    assert shifted.history["bound"][0] < plain.history["bound"][0] - 1


def test_held_out_data_do_not_change_training():
    with_them, without = Shift(), Shift()
    quiet(with_them, X, epochs=3, batch_size=20, lr=0.1, held_out=X)
    quiet(without, X, epochs=3, batch_size=20, lr=0.1)
    assert torch.equal(with_them.shift, without.shift)


def test_patience_and_best_state():
    pair, shifts = Shift(), []
    result = quiet(
        pair, X, epochs=50, batch_size=50, optimizer="sgd", lr=0.5,
        held_out=HeldOut(torch.full((5,), 1.5), patience=2, keep_best=True),
        callbacks=[lambda f: shifts.append(f.pair.shift.item())],
    )  # fmt: skip
    best = int(result.history["held_out"].argmax())
    assert result.stopped == "patience"
    assert result.epochs == best + 3
    assert 0 < best < 40
    assert pair.shift.item() == shifts[best] != shifts[-1]


# --- ends and interruptions ---------------------------------------------------------------------------------------


def test_callback_sees_the_fit_and_may_end_it():
    def stop(so_far):
        assert so_far.stopped == ""
        assert len(so_far.history["bound"]) == so_far.epochs
        if so_far.epochs == 2:
            raise StopIteration

    result = quiet(Shift(), X, epochs=9, callbacks=[stop])
    assert (result.epochs, result.stopped) == (2, "callback")


def interrupt(model, x):
    os.kill(os.getpid(), signal.SIGINT)
    return model(x)


def raise_interrupt(model, x):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("deed", "steps_done"), [(interrupt, 4), (raise_interrupt, 3)])
def test_interrupt_keeps_what_was_learned(deed, steps_done, caplog):
    pair, undisturbed = Misbehaving(at=4, deed=deed), Shift()
    before = signal.getsignal(signal.SIGINT)
    result = quiet(pair, X, epochs=9, batch_size=20, lr=0.1)
    assert (result.stopped, result.steps, result.epochs) == ("interrupted", steps_done, steps_done // 3)
    assert "interrupted" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    quiet(undisturbed, X, steps=steps_done, batch_size=20, lr=0.1)
    assert torch.equal(pair.shift, undisturbed.shift)  # whole steps only


def test_non_finite_step_is_not_applied_and_names_the_site():
    class Overflow(Shift):
        def model(self, x):
            scale = torch.where((x == X[17]) & (self.shift > 0.25), 0.0, 1.0)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.shift, 1.0))
                pyro.sample("x", dist.Normal(z, scale), obs=x)

    pair = Overflow()
    with pytest.raises(
        NonFiniteError, match=r"log probability of site 'x' for data point 17.*gradients not finite: shift"
    ) as caught:
        quiet(pair, X, epochs=9, batch_size=20, lr=0.1)
    result = caught.value.fit
    assert result.stopped == "non-finite"
    assert result.steps == len(result.history["bound_per_step"]) > 0
    undisturbed = Shift()
    quiet(undisturbed, X, steps=result.steps, batch_size=20, lr=0.1)
    assert torch.equal(pair.shift, undisturbed.shift)


def test_non_finite_draw_is_named():
    class BrokenGuide(Shift):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / (self.shift < 0.15), 0.7))

    with pytest.raises(NonFiniteError, match="value of site 'z' for data point"):
        quiet(BrokenGuide(), X, epochs=9, batch_size=20, lr=0.1)


def test_non_finite_gradient_alone_names_the_parameter():
    class Cusp(Shift):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.tensor(0.0))

        def model(self, x):
            super().model(x + self.offset.abs().sqrt())

        def guide(self, x):
            super().guide(x + self.offset.abs().sqrt())

    pair = Cusp()
    with pytest.raises(NonFiniteError, match=r"every site is finite.*gradients not finite: offset"):
        quiet(pair, X, epochs=1)
    assert pair.shift.item() == 0.0
    assert pair.shift.grad is None


def test_gradients_of_masked_data_that_are_too_large():
    x = torch.zeros(4, 2)
    x[1] = 9.97e36

    class Masked(Shift):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.tensor(0.0))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                fn = dist.Normal(z + self.shift, self.log_scale.exp()).mask(x < 1e30).to_event(1)
                pyro.sample("x", fn, obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(NonFiniteError, match=r"where site 'x' is masked, its density is not.* Put moderate numbers"):
        quiet(Masked(), x, epochs=1)


# --- the process is left as it was found --------------------------------------------------------------------------


def fail(model, x):
    raise ZeroDivisionError("as asked")


@pytest.mark.parametrize("deed", [None, fail, raise_interrupt])
def test_process_is_left_as_found(deed):
    pair = Misbehaving(at=2, deed=deed) if deed else Shift()
    pair.part = nn.Linear(1, 1).eval()
    state, validation = torch.get_rng_state(), torch.distributions.Distribution._validate_args
    try:
        quiet(pair, X, epochs=2, batch_size=20, held_out=X)
    except ZeroDivisionError:
        assert deed is fail
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.distributions.Distribution._validate_args == validation
    assert pyro.poutine.runtime._PYRO_STACK == []
    assert pair.training
    assert not pair.part.training


def denormals_kept():
    """Shares of denormal numbers that survive: in Python's thread, and in a computation by all of torch's threads."""
    smallest = torch.ones(1 << 20, dtype=torch.int32).view(torch.float32)
    survivors = (smallest * 1).view(torch.int32).count_nonzero().item() / smallest.numel()
    return float(sys.float_info.min / 2 > 0), survivors


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_in_all_threads_and_the_setting_restored(before):
    inside = []
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    assert denormals_kept() == (1.0, 1.0)
    with denormals_flushed() if before else contextlib.nullcontext():
        outside = denormals_kept()
        quiet(Shift(), X, epochs=1, callbacks=[lambda _: inside.append(denormals_kept())])
        assert denormals_kept() == outside == ((0.0, 0.0) if before else (1.0, 1.0))
    assert inside == [(0.0, 0.0)]
    assert denormals_kept() == (1.0, 1.0)


def test_bar_shows_bound_and_rate(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(Shift(), X, bound, epochs=1)
    shown = capsys.readouterr().err
    assert "bound -" in shown
    assert "step/s" in shown or "s/step" in shown
    quiet(Shift(), X, epochs=1)
    assert capsys.readouterr().err == ""
