"""Torch's schedulers in `fit` move the learning rate as they do in a loop of torch's own."""

from functools import partial

import pyro.optim
import pytest
import torch
from torch.optim import SGD, lr_scheduler

import ppvae
from ppvae.inference.training import schedulers
from ppvae.models import LinearVAE

EPOCHS, STEPS_PER_EPOCH, RATE = 6, 3, 0.1


def train(schedule, pair=None, epochs=EPOCHS, **settings):
    torch.manual_seed(0)
    pair = pair or LinearVAE(num_features=4, num_latents=2)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    lr = settings.pop("lr", RATE)
    given = {"batch_size": 10, "lr": lr, "progress": False, "compile": False, **settings}
    return ppvae.fit(pair, x, schedule=schedule, epochs=epochs, **given)


def warm(optimizer):
    first, then = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.5)
    return lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[3])


ONE_CYCLE = partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=EPOCHS * STEPS_PER_EPOCH, cycle_momentum=False)
BY_EPOCH = {
    "StepLR": partial(lr_scheduler.StepLR, step_size=2, gamma=0.3),
    "MultiStepLR": partial(lr_scheduler.MultiStepLR, milestones=[1, 3]),
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
    "SequentialLR": warm,
}
BY_STEP = {
    "OneCycleLR": ONE_CYCLE,
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
}


def torchs(make, steps, optimizer=SGD, **settings):
    """The rates of torch's own loop, after each of so many steps."""
    own = optimizer([torch.nn.Parameter(torch.zeros(1))], lr=RATE, **settings)
    scheduler, rates = make(own), []
    for _ in range(steps):
        rates.append(own.param_groups[0]["lr"])
        own.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", BY_EPOCH)
def test_epochs_have_the_rates_of_torchs_own_loop(name):
    found = train(BY_EPOCH[name], optimizer="sgd").history["learning_rate"]
    assert found.tolist() == torchs(BY_EPOCH[name], EPOCHS)


@pytest.mark.parametrize("name", BY_STEP)
def test_steps_have_the_rates_of_torchs_own_loop(name):
    optimizer = partial(SGD, momentum=0.9)
    found = train(BY_STEP[name], optimizer=optimizer).history["learning_rate"]
    expected = torchs(BY_STEP[name], EPOCHS * STEPS_PER_EPOCH, optimizer)
    assert found.tolist() == expected[STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH]


@pytest.mark.parametrize(("held_out", "mode"), [(False, "min"), (True, "min"), (True, "max")])
def test_a_plateau_is_of_the_bound(held_out, mode):
    make = partial(lr_scheduler.ReduceLROnPlateau, mode=mode, factor=0.5, patience=0, threshold=0.05)
    data = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)) if held_out else None
    history = train(make, held_out=data, epochs=10, lr=0.5).history
    own = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, expected = make(own), []
    for bound in history["held_out" if held_out else "bound"]:
        expected.append(own.param_groups[0]["lr"])
        scheduler.step(bound if mode == "max" else -bound)
    assert history["learning_rate"].tolist() == expected
    assert expected[-1] < 0.5


@pytest.mark.parametrize(
    "make", [BY_EPOCH["MultiStepLR"], ONE_CYCLE, partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.05)]
)
def test_resuming_is_bit_for_bit(make, tmp_path):
    whole = train(make)
    path = tmp_path / "run.safetensors"

    def stop(fit):
        if fit.epochs == 3:
            raise StopIteration

    train(make, checkpoint=path, callbacks=[stop])
    resumed = train(make, checkpoint=path, resume=True)
    assert resumed.history["learning_rate"].tolist() == whole.history["learning_rate"].tolist()
    assert resumed.history["bound"].tolist() == whole.history["bound"].tolist()
    for a, b in zip(resumed.pair.parameters(), whole.pair.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow(20)
def test_compiled_steps_take_the_rates():
    pairs = [train(BY_EPOCH["StepLR"], compile=compiled).pair for compiled in (False, True)]
    for a, b in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_momentum_is_cycled_uncompiled_and_refused_compiled():
    make = partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=100)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    assert schedulers.Scheduler(make, optimizer).moved == ["betas"]
    assert train(make).steps == EPOCHS * STEPS_PER_EPOCH
    with pytest.raises(ValueError, match=r"schedule: found one that changes betas.*cycle_momentum=False"):
        train(make, compile=True)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lr_scheduler.StepLR, r"schedule: found the class StepLR.*step_size.*partial"),
        (lambda optimizer: 0.5, r"schedule: found that a function makes 0.5, expected a torch scheduler"),
    ],
)
def test_what_makes_no_scheduler_is_refused(schedule, message):
    with pytest.raises(TypeError, match=message):
        train(schedule)


ADAM = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}}


@pytest.mark.parametrize("schedule", [pyro.optim.ExponentialLR({**ADAM, "gamma": 0.9}), pyro.optim.ExponentialLR])
def test_pyros_schedulers_are_refused_with_torchs_for_a_remedy(schedule, tmp_path):
    pair = LinearVAE(num_features=4, num_latents=2)
    before = [p.clone() for p in pair.parameters()]
    with pytest.raises(TypeError, match=r"schedule: found that it fails at step 0 .*partial\(.*ExponentialLR"):
        train(schedule, pair, checkpoint=tmp_path / "run.safetensors")
    assert all(torch.equal(p, old) for p, old in zip(pair.parameters(), before, strict=True))
    train(partial(lr_scheduler.ExponentialLR, gamma=0.9), pair)  # the remedy


@pytest.mark.parametrize(
    "optimizer",
    [
        pyro.optim.Adam({"lr": 1e-3}),
        pyro.optim.Adam(lambda name: {"lr": 1e-3}),
        pyro.optim.ExponentialLR({**ADAM, "gamma": 0.9}),
        pyro.optim.Adam,
        pyro.optim.ClippedAdam,
    ],
)
def test_pyros_optimizers_are_refused_with_torchs_for_a_remedy(optimizer):
    found = r"optimizer: found .*which does not take .*makes a torch optimizer, such as .*clipped_adam.ClippedAdam"
    with pytest.raises(TypeError, match=found):
        train(None, optimizer=optimizer)
    train(None, optimizer=partial(pyro.optim.clipped_adam.ClippedAdam, clip_norm=10.0))  # the remedy


def test_an_optimizer_without_a_rate_is_refused():
    def make(parameters, lr):
        return pyro.optim.adagrad_rmsprop.AdagradRMSProp(parameters, eta=lr)

    with pytest.raises(TypeError, match=r"optimizer: found AdagradRMSProp, whose groups .* no rate 'lr'"):
        train(None, optimizer=make)


def test_an_optimizer_of_sparse_gradients_is_refused():
    with pytest.raises(TypeError, match=r"optimizer: found SparseAdam, which takes sparse gradients alone, expected"):
        train(None, optimizer=torch.optim.SparseAdam)


@pytest.mark.parametrize("schedule", [lambda done: 1.0, partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0)])
def test_a_schedule_does_not_replace_the_optimizers_own(schedule):
    def clipped(lrd):
        return partial(pyro.optim.clipped_adam.ClippedAdam, lrd=lrd)

    with pytest.raises(ValueError, match=r"schedule: found one beside ClippedAdam, whose lrd=0.5 multiplies .* step"):
        train(schedule, optimizer=clipped(0.5))
    train(schedule, optimizer=clipped(1.0))
    run = train(None, optimizer=clipped(0.5), epochs=2)
    assert run.history["learning_rate"].tolist() == [RATE / 2**3, RATE / 2**6]


def test_a_scheduler_of_another_optimizer_is_refused():
    own = lr_scheduler.StepLR(SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), 3)
    with pytest.raises(TypeError, match=r"schedule: found a StepLR, expected a function of the fraction of steps"):
        train(own)


def test_an_optimizer_that_refuses_its_settings_or_the_parameters_is_named():
    with pytest.raises(ValueError, match=r"optimizer: found .* refuses .* \(Invalid momentum value: -1\), expected"):
        train(None, optimizer=partial(torch.optim.SGD, momentum=-1))


def test_lbfgs_is_refused_by_name():
    with pytest.raises(TypeError, match=r"optimizer: found LBFGS, which evaluates the bound several times"):
        train(None, optimizer=torch.optim.LBFGS)
