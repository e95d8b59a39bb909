"""Compiled or not, a step is the same estimator with the same noise: parameters agree to rounding."""

import functools
import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.compiled_runs import DATA, assert_same, run_as_traced, trained
from support.small_pairs import Busy
from torch import nn

import ppvae
from ppvae import (
    ELBO,
    IWAE,
    RWS,
    VIMCO,
    EnumeratedELBO,
    LinearWarmup,
    NonFiniteError,
    Pair,
    StepOptions,
    VectorQuantizedELBO,
)
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.models import (
    VAE,
    VQVAE,
    AutoregressivePrior,
    GaussianMixture,
    LinearCodes,
    LinearGaussianChain,
    LinearVAE,
    MarkovHVAE,
)


@pytest.mark.slow(6)
def test_buffers_dropout_schedules_and_a_transform(caplog):
    assert_same(
        Busy,
        ELBO(beta=LinearWarmup(8)),
        caplog,
        schedule=lambda done: 1 - done,
        transform=lambda x: x + 0.1 * torch.randn_like(x),
    )


@pytest.mark.slow(12)
@pytest.mark.skipif(torch.__version__ < (2, 13), reason="torch 2.8 draws such masks in another order, and stays eager")
def test_dropout_in_a_guide_that_runs_twice_a_step(caplog):
    """On data, and on what the model dreams."""

    def with_dropout():
        pair = of_parts("diagonal")
        pair.posterior.network.insert(2, nn.Dropout(0.2))
        return pair.double()

    assert_same(with_dropout, RWS(4, phase="sleep"), caplog, data=DATA.double())


@pytest.mark.slow(7)
def test_running_averages_of_codes(caplog):
    def quantized():
        return VQVAE.mlp(4, 2, 3, 2, [5], "gaussian", decay=0.5)

    assert_same(quantized, VectorQuantizedELBO(), caplog)


@pytest.mark.slow(8)
def test_an_autoregressive_prior_of_codes(caplog):
    """Whose one-hot inputs must not look at values."""

    def second_stage():
        return VQVAE.mlp(4, 2, 3, 2, [5], "gaussian").second_stage(AutoregressivePrior(LinearCodes([2], 3)))

    assert_same(second_stage, ELBO(), caplog)


def from_functions():
    """Pyro functions with parameters of the store, one of them constrained, and a module."""
    encoder = nn.Linear(4, 2)

    def model(x):
        scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
        loading = pyro.param("loading", torch.ones(2, 4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loading, scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return Pair.of(model, guide, example=DATA)


@pytest.mark.slow(7)
def test_pyro_functions(caplog):
    assert_same(from_functions, ELBO(), caplog)


def squares(pair, batch, step=None):
    """An objective of one's own, of the public log weights: it falls with their mean square."""
    value = pair.log_weights(batch, 3).log_w.mean(0)
    return value, -value.square().mean()


@pytest.mark.slow(7)
@pytest.mark.parametrize("make", [lambda: LinearVAE(4, 2), from_functions])
def test_an_objective_of_ones_own(make, caplog):
    assert_same(make, squares, caplog)


@pytest.mark.slow(6)
def test_clipping_and_averages(caplog):
    assert_same(lambda: LinearVAE(4, 2), ELBO(), caplog, options=StepOptions(clip_norm=1.0, ema=0.8))


@pytest.mark.slow(6)
def test_an_optimizer_that_is_not_fused_takes_its_own_step(caplog):
    assert_same(
        lambda: LinearVAE(4, 2),
        IWAE(3, "dreg"),
        caplog,
        optimizer=torch.optim.RMSprop,
        options=StepOptions(clip_norm=1.0, ema=0.8),
    )


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    "optimizer",
    [
        functools.partial(torch.optim.AdamW, weight_decay=0.1, fused=True),
        functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
        functools.partial(torch.optim.Adam, amsgrad=True, betas=(0.8, 0.9), fused=True),
        functools.partial(torch.optim.Adagrad, fused=True),
        functools.partial(torch.optim.AdamW, weight_decay=0.1),
    ],
    ids=["adamw", "sgd", "amsgrad", "adagrad", "not fused"],
)
def test_optimizers(optimizer, caplog, monkeypatch):
    """The update follows the program, and is no part of it."""
    run_as_traced(monkeypatch)
    assert_same(lambda: LinearVAE(4, 2), ELBO(), caplog, optimizer=optimizer, lr=1e-3)


class Turned(Pair):
    """Its weights are copied into another order, and their gradient comes in that order too."""

    def __init__(self):
        super().__init__()
        self.weight, self.encoder = nn.Parameter(torch.randn(4, 2)), nn.Linear(4, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T.contiguous(), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


@pytest.mark.parametrize("compile", [False, True])
def test_gradients_in_another_order_than_their_parameters(compile):
    """Fused optimizers step each entry by the one at the same place in memory."""
    _, surrogate = ELBO()(pair := Turned(), DATA)
    assert not torch.autograd.grad(surrogate, [pair.weight])[0].is_contiguous()
    fused, one_by_one = (
        trained(Turned, ELBO(), compile, optimizer=functools.partial(torch.optim.Adam, fused=fused))[0]
        for fused in (True, False)
    )
    torch.testing.assert_close(fused.weight, one_by_one.weight, rtol=1e-4, atol=1e-5)


def test_an_optimizer_without_state_is_compiled_for(monkeypatch, caplog):
    made = []
    monkeypatch.setattr(
        "ppvae.inference.training.step_programs.CompiledStep", lambda *args: made.append(CompiledStep(*args)) or made[0]
    )
    assert_same(lambda: LinearVAE(4, 2), ELBO(), caplog, optimizer="sgd", lr=1e-3)
    assert len(made) == 1


def of_parts(posterior, prior="normal"):
    return VAE.mlp(4, 2, hidden=[5], likelihood="gaussian", posterior=posterior, prior=prior)


@pytest.mark.slow(60)
def test_gray_levels(caplog):
    assert_same(lambda: of_levels("logistic_mixture"), ELBO(), caplog, data=LEVELS)


LEVELS = torch.randint(5, (70, 4), generator=torch.Generator().manual_seed(0)) / 4


def of_levels(likelihood):
    return VAE.mlp(4, 2, hidden=[5], likelihood=likelihood, levels=5)


COMPILED = {
    "vimco": (lambda: LinearVAE(4, 2, guide="full"), VIMCO(3)),
    "enumerated": (lambda: GaussianMixture(3, 4, guide="amortized"), EnumeratedELBO()),
    "residual": (lambda: MarkovHVAE.mlp(4, [2, 2], [5], "gaussian", "residual"), ELBO(gradient="stl")),
    "low-rank": (lambda: of_parts("low-rank"), ELBO()),
    "mixture-iwae": (lambda: of_parts("mixture"), IWAE(3)),
    "iaf-flow-prior": (lambda: of_parts("iaf", "flow"), ELBO()),
}
"""With draws, parts and gradients of each kind; each takes most of a minute to compile."""

TRACED = {
    "iwae": (lambda: LinearVAE(4, 2, guide="full"), IWAE(3)),
    "stl": (lambda: LinearVAE(4, 2, guide="full"), ELBO(3, gradient="stl")),
    "full-dreg": (lambda: of_parts("full"), IWAE(3, "dreg")),
    "rws": (lambda: GaussianMixture(3, 4, guide="amortized"), RWS(4)),
    "hierarchy": (lambda: MarkovHVAE.mlp(4, [2, 2], hidden=[5], likelihood="gaussian"), ELBO()),
    "bottom-up": (lambda: MarkovHVAE.mlp(4, [2, 2], [5], "gaussian", "bottom_up"), ELBO()),
    "ladder": (lambda: MarkovHVAE.mlp(4, [2, 2], [5], "gaussian", "ladder"), ELBO()),
    "chain": (lambda: LinearGaussianChain(4, [2, 2], guide="exact"), ELBO()),
    "mixture-elbo": (lambda: of_parts("mixture"), ELBO(3)),
    "mixture-prior": (lambda: of_parts("flow", "mixture"), ELBO()),
    "iaf-dreg": (lambda: of_parts("iaf"), IWAE(3, "dreg")),
    "vamp": (lambda: of_parts("diagonal", "vamp"), ELBO(gradient="stl")),
    "categorical": (lambda: of_levels("categorical"), ELBO()),
}


@pytest.mark.slow(45)
@pytest.mark.parametrize("name", COMPILED)
def test_pairs_and_objectives(name, caplog):
    assert_same(*COMPILED[name], caplog)


@pytest.mark.slow(3)
@pytest.mark.parametrize("name", TRACED)
def test_pairs_and_objectives_as_traced(name, caplog, monkeypatch):
    run_as_traced(monkeypatch)
    assert_same(*TRACED[name], caplog, data=LEVELS if name == "categorical" else DATA)


class InterruptedAt:
    """Leaves the data as they are, until Ctrl-C is pressed at its n-th call."""

    def __init__(self, calls):
        self.calls = calls

    def __repr__(self):
        return "transform"

    def __call__(self, x):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return x


def test_resuming_is_bit_for_bit(tmp_path):
    """A resumed run has its optimizer's state, and compiles before its first step."""
    make = functools.partial(LinearVAE, 4, 2)
    never, midway = InterruptedAt(-1), InterruptedAt(9)  # two of the calls are for checks
    whole, run = trained(make, ELBO(), True, transform=never, checkpoint=tmp_path / "whole")
    assert run.stopped == "completed"
    _, run = trained(make, ELBO(), True, transform=midway, checkpoint=tmp_path / "halves")
    assert (run.stopped, 2 < run.steps < 10) == ("interrupted", True)
    halves, run = trained(make, ELBO(), True, transform=never, checkpoint=tmp_path / "halves", resume=True)
    assert run.steps == 12
    for p, q in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(p, q)


class Branching(LinearVAE):
    """Decides by the value of a tensor, which cannot be traced."""

    def __init__(self):
        super().__init__(4, 2)

    def guide(self, x):
        if self.encoder.weight.abs().max() > -1:
            super().guide(x)


class OneHot(LinearVAE):
    """Encodes a class by `one_hot`, which looks for values out of range."""

    def __init__(self):
        super().__init__(4, 2)

    def guide(self, x):
        signs = nn.functional.one_hot((x[:, 0] > 0).long(), 4)
        super().guide(x + signs)


class Alternating(LinearVAE):
    """Keeps a count of training steps outside its buffers, which a program would not."""

    calls = 0

    def __init__(self):
        super().__init__(4, 2)

    def model(self, x):
        self.calls += self.training
        super().model(x + self.calls % 2)


class Shared(LinearVAE):
    """A module under two names, and a parameter in two modules."""

    def __init__(self):
        super().__init__(4, 2)
        self.trunk = nn.Linear(4, 4)
        self.layers = nn.Sequential(self.trunk, nn.Tanh())
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.trunk.weight

    def guide(self, x):
        super().guide(self.tied(self.layers(x)))


@pytest.mark.slow(13)
def test_shared_modules_and_parameters(caplog):
    assert_same(Shared, ELBO(), caplog)
    pair = Shared()
    before = dict(pair.named_parameters(remove_duplicate=False))
    ppvae.fit(pair, DATA, steps=3, batch_size=20, compile=True, progress=False)
    after = dict(pair.named_parameters(remove_duplicate=False))
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


class Picking(LinearVAE):
    """Computes with entries chosen by a mask: their number differs from batch to batch."""

    def __init__(self):
        super().__init__(4, 2)

    def model(self, x):
        clipped = x.clone()
        clipped[x > 1] = x[x > 1] / 2
        super().model(clipped)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Picking, "aten.index.Tensor: found a shape that depends on values"),
        (Branching, "`if self.encoder.weight.abs().max() > -1:`: found data-dependent control flow"),
        (OneHot, "`signs = nn.functional.one_hot((x[:, 0] > 0).long(), 4)`: found data-dependent control flow"),
        (Alternating, "Alternating.calls: found 3 after 1, expected what stays from call to call"),
    ],
)
def test_what_cannot_be_compiled_goes_on_uncompiled_and_says_why(make, reason, caplog):
    with caplog.at_level(logging.WARNING):
        _, run = trained(make, ELBO(), True)
    assert run.steps == 12
    (record,) = caplog.records
    assert "training goes on uncompiled" in record.message
    assert reason in record.message


class Exploding(LinearVAE):
    """Its scale is infinite from the point where the mean has moved."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = torch.where(self.mean.detach().abs().max() > 0.035, torch.inf, 1.0)
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.mean, scale).to_event(1), obs=x)


@pytest.mark.slow(7)
def test_a_step_that_is_not_finite_is_not_applied_and_names_the_site():
    errors = {}
    for compile in (False, True):
        torch.manual_seed(1)
        pair = Exploding(4, 2)
        with pytest.raises(NonFiniteError, match="first in the log probability of site 'x'") as caught:
            ppvae.fit(pair, DATA, steps=12, batch_size=20, lr=1e-2, compile=compile, progress=False)
        errors[compile] = caught.value
        assert all(p.isfinite().all() for p in pair.parameters())
    assert errors[True].fit.steps == errors[False].fit.steps > 2


@pytest.mark.slow(25)
def test_loops_whose_ends_are_no_whole_vector_stay_within_their_tensors(caplog):
    """The compiler's masked ends of loops wrote out of bounds here, and the process died or its numbers were wrong."""
    assert_same(lambda: of_parts("iaf"), IWAE(3), caplog)
