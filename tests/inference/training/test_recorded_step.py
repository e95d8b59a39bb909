"""A recorded step applies the operations of the eager one, so that no bit differs."""

import sys
from functools import partial

import pytest
import torch
from support.compiled_runs import DATA, run_as_traced, trained
from support.small_pairs import Busy

from ppvae import ELBO, IWAE, RWS, VIMCO, EnumeratedELBO, LinearWarmup, StepOptions, Trainer
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.compiling.recorded import recorded
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.models import VAE, GaussianMixture, LinearVAE, MarkovHVAE

SMOOTH = StepOptions(clip_norm=1.0, ema=0.8)
CASES = {
    "linear": (lambda: LinearVAE(4, 2), ELBO(), {}),
    "decay": (lambda: LinearVAE(4, 2), ELBO(), {"schedule": lambda done: 0.1**done, "optimizer": "adamw"}),
    "busy": (Busy, ELBO(beta=LinearWarmup(8)), {"transform": lambda x: x + 0.1 * torch.randn_like(x)}),
    "stl": (lambda: LinearVAE(4, 2, guide="full"), ELBO(3, gradient="stl"), {"options": SMOOTH}),
    "vimco": (lambda: LinearVAE(4, 2, guide="full"), VIMCO(3), {"optimizer": torch.optim.RMSprop}),
    "rws": (lambda: GaussianMixture(3, 4, guide="amortized"), RWS(4), {}),
    "enumerated": (lambda: GaussianMixture(3, 4), EnumeratedELBO(), {}),
    "vae": (lambda: VAE.mlp(4, 2, hidden=[5], likelihood="gaussian", posterior="mixture"), IWAE(3), {}),
    "hierarchy": (lambda: MarkovHVAE.mlp(4, [2, 2], hidden=[5], likelihood="gaussian"), ELBO(), {}),
}


@pytest.fixture
def made(monkeypatch):
    """Records after three steps instead of a hundred; what is recorded, in a list."""
    steps = []

    def step(*args):
        steps.append(CompiledStep(*args))
        assert args[-1] is True, "recorded, not compiled"
        return steps[-1]

    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    monkeypatch.setattr("ppvae.inference.training.step_programs.CompiledStep", step)
    return steps


def assert_equal(one, other):
    for (name, p), q in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("num_programs", [1, 2], ids=["", "and of an epoch's rest"])
@pytest.mark.parametrize("name", CASES)
def test_no_bit_differs(name, num_programs, made, monkeypatch):
    if num_programs == 2:
        monkeypatch.setattr("ppvae.inference.training.step_programs.REST_AFTER", 1)
    make, objective, settings = CASES[name]
    eager, a = trained(make, objective, False, **settings)
    assert not made
    pair, b = trained(make, objective, "auto", **settings)
    assert len(made) == num_programs
    assert_equal(eager, pair)
    assert a.history["bound_per_step"].tolist() == b.history["bound_per_step"].tolist()


@pytest.mark.parametrize("stop", [2, 3, 7])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(stop, made, tmp_path):
    """Before, at and after the step that is recorded."""
    whole, _ = trained(Busy, ELBO(), "auto")
    calls = iter(range(-2, 100))  # two of them when the data are checked

    def interrupted(x):
        if next(calls) == stop:
            raise KeyboardInterrupt
        return x

    settings = {"checkpoint": tmp_path / "run.pt", "resume": True, "transform": interrupted}
    _, first = trained(Busy, ELBO(), "auto", **settings)
    assert first.steps == stop
    pair, run = trained(Busy, ELBO(), "auto", **settings)
    assert run.steps == 12
    assert_equal(whole, pair)


def test_callbacks_may_change_the_pair_so_nothing_is_recorded(made):
    trained(lambda: LinearVAE(4, 2), ELBO(), "auto", callbacks=[lambda run: None])
    assert not made


def test_a_record_would_hold_momentum_fixed_so_where_it_is_cycled_nothing_is_recorded(made):
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12)
    eager, _ = trained(lambda: LinearVAE(4, 2), ELBO(), False, schedule=cycle)
    pair, _ = trained(lambda: LinearVAE(4, 2), ELBO(), "auto", schedule=cycle)
    assert not made
    assert_equal(eager, pair)


def test_what_looks_at_values_stays_eager_without_a_warning(made, caplog):
    caplog.set_level("WARNING")

    def objective(pair, batch, step=None):
        value, surrogate = ELBO()(pair, batch)
        return (value, surrogate) if batch.sum() > 0 else (value, 0.5 * surrogate)

    eager, _ = trained(lambda: LinearVAE(4, 2), objective, False)
    pair, _ = trained(lambda: LinearVAE(4, 2), objective, "auto")
    assert not made
    assert not caplog.text
    assert_equal(eager, pair)


def test_the_rest_of_a_compiled_epoch_is_recorded(monkeypatch):
    run_as_traced(monkeypatch)
    as_it_was, _ = trained(Busy, ELBO(), True, options=SMOOTH)
    monkeypatch.setattr("ppvae.inference.training.step_programs.REST_AFTER", 1)
    made = []
    step = "ppvae.inference.training.step_programs.CompiledStep"
    monkeypatch.setattr(step, lambda *args: made.append((len(args[3]), args[-1])) or CompiledStep(*args))
    pair, _ = trained(Busy, ELBO(), True, options=SMOOTH)
    assert made == [(20, False), (10, True)]
    assert_equal(as_it_was, pair)


def test_what_cannot_be_recorded_of_an_epochs_rest_is_eager(made, monkeypatch, caplog):
    caplog.set_level("WARNING")

    class Few(LinearVAE):
        """Looks at values where there are few."""

        def model(self, x):
            if len(x) <= 10 and not x.isfinite().all():
                raise ValueError
            super().model(x)

    eager, _ = trained(lambda: Few(4, 2), ELBO(), False)
    monkeypatch.setattr("ppvae.inference.training.step_programs.REST_AFTER", 1)
    pair, _ = trained(lambda: Few(4, 2), ELBO(), "auto")
    assert len(made) == 1, "that of the other steps"
    assert not caplog.text
    assert_equal(eager, pair)


class Annealed(LinearVAE):
    """Counts its calls, as those do who anneal by hand."""

    def __init__(self):
        super().__init__(4, 2)
        self.calls = 0

    def model(self, x):
        self.calls += self.training
        super().model(x * min(1.0, self.calls / 8))


def test_a_count_that_a_module_keeps_stays_right_and_nothing_is_recorded(made, caplog):
    caplog.set_level("INFO")
    eager, _ = trained(Annealed, ELBO(), False)
    pair, _ = trained(Annealed, ELBO(), "auto")
    assert pair.calls == eager.calls
    assert_equal(eager, pair)
    assert "Annealed.calls: found 6 after 4, expected what stays from call to call" in caplog.text


@pytest.mark.parametrize("compile", ["auto", True])
def test_what_is_decided_elsewhere_is_found_at_the_next_power_of_two(compile, caplog, monkeypatch):
    """The factor changes at step 9, and the comparison before that step finds it."""
    run_as_traced(monkeypatch)
    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    batches = []

    def counted(x):
        batches.append(len(x))
        return x

    def annealed(pair, x, step=None):
        return ELBO()(pair, x * (1.0 if len(batches) <= 10 else 0.5))  # two of them when the data are checked

    eager, _ = trained(lambda: LinearVAE(4, 2), annealed, False, transform=counted)
    assert not caplog.text
    batches.clear()
    pair, _ = trained(lambda: LinearVAE(4, 2), annealed, compile, transform=counted)
    for (name, p), q in zip(eager.state_dict().items(), pair.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)
    assert "training goes on uncompiled from step 9: the compiled bound is" in caplog.text


def test_a_record_without_all_random_numbers_is_refused():
    def trace():
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(lambda x: [x + torch.randn(2)])(torch.zeros(2))
        draw = next(node for node in graph.graph.nodes if "randn" in str(node.target))
        with graph.graph.inserting_before(draw):
            graph.graph.call_function(draw.target, draw.args, draw.kwargs)  # one more, which nothing depends on
        graph.recompile()
        return graph

    with pytest.raises(CannotCompileError, match="random numbers are drawn that nothing depends on"):
        recorded(trace, [torch.zeros(2)], torch.device("cpu"))


def test_data_of_the_usual_size_are_recorded_at_the_hundredth_step(monkeypatch):
    at = []
    monkeypatch.setattr("ppvae.inference.training.step_programs.CompiledStep", lambda *args: at.append(args) or 1 / 0)
    trained(lambda: LinearVAE(4, 2), ELBO(), "auto", steps=100)
    assert not at
    with pytest.raises(ZeroDivisionError):
        trained(lambda: LinearVAE(4, 2), ELBO(), "auto", steps=101, data=DATA[:60])


def test_the_bar_does_not_call_it_compiling():
    trainer = Trainer(LinearVAE(4, 2))
    trainer.programs.record_after = 1
    for _ in range(3):
        trainer.step(DATA[:8])
    assert trainer.programs._programs
    assert trainer.programs.seconds == 0
