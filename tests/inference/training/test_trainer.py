"""A trainer's steps are those of `fit`; they leave the process as it was, and are kept and resumed bit for bit."""

import os
import signal
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.small_pairs import Busy, Shift

import ppvae
from ppvae import CheckpointError, NonFiniteError, StepOptions, Trainer
from ppvae.batches import num_rows
from ppvae.inference.runtime.isolation import derived_seed
from ppvae.inference.training.resuming import plain
from ppvae.inference.training.trainer import ORDER
from ppvae.models import LinearVAE

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
SMOOTH = StepOptions(clip_norm=0.5, ema=0.8)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(make=Busy, seed=0):
    torch.manual_seed(seed)
    return make()


def linear():
    return LinearVAE(4, 2)


def batches_of_fit(data, batch_size, epochs, seed):
    """The minibatches that `fit` takes."""
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derived_seed(seed, ORDER, epoch))
        for index in torch.randperm(num_rows(data), generator=generator).split(batch_size):
            yield data[index]


def state(trainer):
    """All that a step changes."""
    found = trainer.state()
    tensors = {f"{name}.{key}": t.clone() for name, group in found.tensors.items() for key, t in group.items()}
    return tensors, plain(found.values)


def assert_same(one, other):
    (a, b), (c, d) = one, other
    assert a.keys() == c.keys()
    assert [name for name in a if not torch.equal(a[name], c[name])] == []
    assert b == d


# --- the step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (linear, {"optimizer": "sgd"}),
        (Busy, {"options": SMOOTH}),
        (Busy, {"compile": True}),
        (linear, {"optimizer": torch.optim.RMSprop, "objective": ppvae.IWAE(3)}),
    ],
    ids=["sgd", "options", "compiled", "iwae"],
)
def test_steps_are_those_of_fit_bit_for_bit(make, settings):
    settings = {"lr": 0.02, "seed": 3} | settings
    run = ppvae.fit(made(make), X, epochs=3, batch_size=20, progress=False, **settings)
    trainer = Trainer(made(make), **settings)
    bounds = [trainer.step(batch) for batch in batches_of_fit(X, 20, 3, seed=3)]
    assert bounds == run.history["bound_per_step"].tolist()
    assert trainer.steps == run.steps == 9
    with trainer.averaged():  # fit ends as the average
        for p, q in zip(trainer.pair.state_dict().values(), run.pair.state_dict().values(), strict=True):
            assert torch.equal(p, q)


def test_schedule_goes_by_the_steps_done():
    asked = []
    trainer = Trainer(made(), lr=0.1, schedule=lambda step: asked.append(step) or 1 / (1 + step))
    for _ in range(3):
        trainer.step(X)
    assert asked == [0, 1, 2]
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 3)


def test_average_is_the_parameters_for_a_block_only():
    trainer = Trainer(made(), lr=0.1, options=StepOptions(ema=0.9))
    start = trainer.pair.decoder.weight.detach().clone()
    trainer.step(X)
    raw = trainer.pair.decoder.weight.detach().clone()
    with trainer.averaged():
        torch.testing.assert_close(trainer.pair.decoder.weight.detach(), 0.1 * start + 0.9 * raw)
    assert torch.equal(trainer.pair.decoder.weight, raw)


def test_learns():
    pair, x = Shift(), torch.randn(200, generator=torch.Generator().manual_seed(0)) + 3
    trainer = Trainer(pair, optimizer="sgd", lr=1.0)
    bounds = [trainer.step(x) for _ in range(60)]
    torch.testing.assert_close(pair.shift.detach(), x.mean(), atol=0.1, rtol=0)
    assert bounds[-1] > bounds[0] + 1


# --- the process is left as it was found --------------------------------------------------------------------------


def denormals_flushed():
    return sys.float_info.min / 2 == 0.0


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_generator_mode_and_settings_are_untouched(fails):
    class Watched(Busy):
        seen = ()

        def model(self, x):
            if self.training:
                self.seen = (self.decoder.training, denormals_flushed())
                if fails:
                    raise ZeroDivisionError
            super().model(x)

    pair = made(Watched).eval()
    pair.encoder[1].train()
    trainer = Trainer(pair)
    modes = {name: module.training for name, module in pair.named_modules()}
    before, validation = torch.get_rng_state(), torch.distributions.Distribution._validate_args
    try:
        trainer.step(X)
    except ZeroDivisionError:
        assert fails
    assert pair.seen == (True, True)
    assert {name: module.training for name, module in pair.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.distributions.Distribution._validate_args == validation
    assert not denormals_flushed()
    assert pyro.poutine.runtime._PYRO_STACK == []


def test_what_the_caller_draws_between_steps_does_not_matter():
    one, other = Trainer(made()), Trainer(made())
    for _ in range(3):
        one.step(X)
        other.step(X)
        torch.manual_seed(7)
        torch.randn(11)
    assert_same(state(one), state(other))


def test_an_interrupt_waits_for_the_end_of_the_step():
    class Interrupting(Busy):
        def model(self, x):
            if self.training:
                os.kill(os.getpid(), signal.SIGINT)
            super().model(x)

    interrupted, undisturbed = Trainer(made(Interrupting)), Trainer(made())
    interrupted.pair.recipe = undisturbed.pair.recipe  # that of another class
    with pytest.raises(KeyboardInterrupt):
        interrupted.step(X)
    undisturbed.step(X)
    assert_same(state(interrupted), state(undisturbed))


# --- refusals -----------------------------------------------------------------------------------------------------


class Breakable(Busy):
    """Gives its observations no scale, when told to; batch statistics and dropout come before."""

    broken = False

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = torch.where(x[:, :1] == X[2, :1], 0.0, 1.0) if self.broken else torch.ones(())
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)


def test_a_step_that_is_not_finite_is_refused_and_leaves_everything_as_it_was():
    settings = {"schedule": lambda step: 0.5**step, "options": SMOOTH}
    trainer, undisturbed = (Trainer(made(Breakable), **settings) for _ in range(2))
    for each in (trainer, undisturbed):
        each.step(X)
    before = state(trainer)
    trainer.pair.broken = True
    with pytest.raises(NonFiniteError, match="log probability of site 'x' for data point 2,") as caught:
        trainer.step(X)
    assert caught.value.fit is None
    assert_same(state(trainer), before)
    assert trainer.pair.decoder.weight.grad is None
    trainer.pair.broken = False
    assert trainer.step(X) == undisturbed.step(X)
    assert_same(state(trainer), state(undisturbed))


def test_a_pair_that_breaks_the_contract_is_refused_at_the_first_step():
    class NoPlate(Busy):
        def guide(self, x):
            pyro.sample("z", dist.Normal(self.encoder(x)[:, :2], 1.0).to_event(1))

    trainer = Trainer(made(NoPlate))
    before = state(trainer)
    with pytest.raises(ppvae.ContractError, match="z"):
        trainer.step(X)
    assert_same(state(trainer), before)


def test_a_bad_batch_is_refused_with_its_index():
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        Trainer(made()).step(X.clone().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: found -1"),
        ({"compile": "auto"}, "compile: found 'auto', expected True or False"),
        ({"optimizer": "adamm"}, "optimizer: found 'adamm'"),
        ({"options": {"ema": 0.9}}, "options: found {'ema': 0.9}, expected StepOptions"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Trainer(made(), **arguments)


# --- kept and resumed ---------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trainer.safetensors"


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adamw", "options": SMOOTH}, {"optimizer": torch.optim.NAdam}, {"compile": True, "options": SMOOTH}],
    ids=["options", "NAdam", "compiled"],
)
def test_saved_and_loaded_in_the_middle_is_bit_for_bit(settings, path):
    """In another trainer, and in the same one gone astray, whose compiled step knows the optimizer's old state."""
    settings = {"lr": 0.05, "schedule": lambda step: 0.9**step} | settings
    undisturbed = Trainer(made(), **settings)
    for step in range(8):
        if step == 4:
            undisturbed.save(path)
        undisturbed.step(X[:20] if step % 2 else X[20:])
    end = state(undisturbed)
    another = Trainer(made(seed=5), **settings)
    for trainer in (another, undisturbed):
        trainer.load(path)
        assert trainer.steps == 4
        for step in range(4, 8):
            trainer.step(X[:20] if step % 2 else X[20:])
        assert_same(state(trainer), end)


def test_the_pair_alone_is_read_from_the_file(path):
    trainer, other = Trainer(made(), lr=0.1, options=SMOOTH), made(seed=1)
    trainer.step(X)
    trainer.save(path)
    ppvae.load(other, path)
    with trainer.averaged():
        assert torch.equal(other.decoder.weight, trainer.pair.decoder.weight)


def trainer_and_file(path):
    saved = Trainer(made(), lr=0.1, options=SMOOTH)
    for _ in range(2):
        saved.step(X)
    saved.save(path)
    return Trainer(made(seed=1), lr=0.1, options=SMOOTH)


def assert_refused(trainer, path, message=None):
    before = state(trainer)
    with pytest.raises(CheckpointError, match=message):
        trainer.load(path)
    assert_same(state(trainer), before)


def test_a_damaged_file_is_refused_and_changes_nothing(path):
    """Wherever a bit has flipped, and wherever the file was cut off."""
    trainer = trainer_and_file(path)
    content = path.read_bytes()
    places = torch.linspace(0, len(content) - 1, 60).long().tolist()
    places += list(range(8, 200, 8))  # in the header, too
    for at in places:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert_refused(trainer, path)
    for at in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:at])
        assert_refused(trainer, path, "truncated")
    path.write_bytes(content)
    trainer.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.2}, r"optimizer_groups\.0\.lr: found 0.1, expected 0.2"),
        ({"seed": 1}, "seed: found 0, expected 1"),
        ({"options": StepOptions(clip_norm=0.5)}, r"options\.ema: found 0.8, expected None"),
        ({"objective": ppvae.IWAE(2)}, "objective: found ELBO"),
        ({"optimizer": "sgd"}, "optimizer: found Adam, expected SGD"),
        ({"compile": True}, "compile: found False, expected True"),
        ({"schedule": abs}, "schedule: found None"),
    ],
)
def test_a_file_of_other_settings_is_refused(settings, message, path):
    trainer_and_file(path)
    assert_refused(Trainer(made(), **({"lr": 0.1, "options": SMOOTH} | settings)), path, message)


def test_foreign_files_are_refused(path, tmp_path):
    trainer = Trainer(made())
    ppvae.save(trainer.pair, path)
    assert_refused(trainer, path, "from another pair or run")
    ppvae.fit(made(), X, epochs=1, checkpoint=path, progress=False)
    assert_refused(trainer, path, "batch_size: found 128, expected none")
    path.write_bytes(b"anything at all")
    assert_refused(trainer, path, "not safetensors")
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "nowhere")
