"""Checkpoints: resuming is bit for bit, and a file that does not belong is refused before anything changes."""

import math
import os
import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ppvae
from ppvae import Checkpoint, HeldOut, Pair
from ppvae.inference.runtime.checkpoint import CheckpointError, read, write
from ppvae.inference.runtime.pair_files import load, save
from ppvae.inference.training.fitting import fit

N = 50
X = torch.rand(N, 4, generator=torch.Generator().manual_seed(1))
HELD_OUT = torch.rand(20, 4, generator=torch.Generator().manual_seed(2)).round()
BEST = HeldOut(HELD_OUT, keep_best=True)


class Tiny(Pair):
    """A VAE with batch statistics and dropout: state beyond its parameters."""

    def __init__(self, latents=2, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2 * latents))
            self.decoder = nn.Linear(latents, 4)

    def model(self, x):
        latents = self.decoder.in_features
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latents), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Halt(BaseException):
    """Ends training in mid-air, as a crash does."""


class Bound:
    """One draw's log weight; raises `error` at a given step, and remembers the steps it was asked for."""

    def __init__(self, halt_at=None, error=Halt):
        self.halt_at, self.error, self.steps = halt_at, error, []

    def __repr__(self):
        return "Bound()"

    def __call__(self, pair, batch, step=math.inf):
        self.steps += [step] * (step != math.inf)
        if step == self.halt_at:
            raise self.error
        value = pair.log_weights(batch, 1).log_w.mean(0)
        return value, value.mean()


class OtherBound(Bound):
    def __repr__(self):
        return "OtherBound()"


def decay(done):
    return 0.1**done


ARGUMENTS = {"batch_size": 15, "lr": 0.02, "transform": torch.bernoulli, "held_out": HELD_OUT, "progress": False}
STEPS_PER_EPOCH = 4


def train(pair=None, objective=None, data=X, **arguments):
    return fit(pair or Tiny(), data, objective or Bound(), **(ARGUMENTS | arguments))


def assert_same(one, other):
    a, b = one.pair.state_dict(), other.pair.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in one.history.keys() - {"seconds"}:
        assert one.history[name].tolist() == other.history[name].tolist()
    assert (one.epochs, one.steps, one.stopped) == (other.epochs, other.steps, other.stopped)


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads gain nothing on problems this small, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", torch.optim.RMSprop, torch.optim.NAdam])
@pytest.mark.parametrize("schedule", [None, decay])
def test_resumed_after_a_crash_is_bit_for_bit_the_undisturbed_run(optimizer, schedule, path):
    arguments = {"epochs": 4, "optimizer": optimizer, "schedule": schedule, "held_out": BEST}
    undisturbed = train(**arguments)
    with pytest.raises(Halt):
        train(objective=Bound(halt_at=11), checkpoint=Checkpoint(path, every=3), **arguments)
    objective = Bound()
    resumed = train(Tiny(seed=9), objective, checkpoint=Checkpoint(path, every=3), resume=True, **arguments)
    assert objective.steps == list(range(9, 16))  # 9: the last checkpoint before 11
    assert_same(resumed, undisturbed)


@pytest.mark.parametrize("halt_at", [0, 1, 5, 8])
def test_resumed_from_the_end_of_an_epoch(halt_at, path):
    with pytest.raises(Halt):
        train(objective=Bound(halt_at), epochs=3, checkpoint=path)
    assert path.exists() == (halt_at > STEPS_PER_EPOCH)
    assert_same(train(epochs=3, checkpoint=path, resume=True), train(epochs=3))


@pytest.mark.parametrize("at", [0, 2, 7])
def test_resumed_after_an_interrupt(at, path):
    interrupted = train(objective=Bound(at, KeyboardInterrupt), epochs=3, checkpoint=path)
    assert (interrupted.stopped, interrupted.steps) == ("interrupted", at)
    assert_same(train(epochs=3, checkpoint=path, resume=True), train(epochs=3))


def test_resumed_after_an_interrupt_at_the_end_of_an_epoch(path):
    class InterruptedEvaluation(Bound):
        def __call__(self, pair, batch, step=math.inf):
            if step == math.inf and self.steps == list(range(STEPS_PER_EPOCH)):
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(pair, batch, step)

    interrupted = train(objective=InterruptedEvaluation(), epochs=3, checkpoint=path)
    assert (interrupted.steps, interrupted.epochs, len(interrupted.history["bound"])) == (STEPS_PER_EPOCH, 0, 0)
    assert_same(train(epochs=3, checkpoint=path, resume=True), train(epochs=3))


def test_completed_run_returns_at_once(path):
    first = train(epochs=2, checkpoint=path, held_out=BEST)
    objective = Bound()
    again = train(Tiny(seed=9), objective, epochs=2, checkpoint=path, held_out=BEST, resume=True)
    assert objective.steps == []
    assert again.seconds == first.seconds
    assert_same(again, first)


@pytest.mark.parametrize("length", [{"epochs": 4}, {"steps": 14}])
def test_completed_run_may_be_given_more(length, path):
    train(epochs=2, checkpoint=path, held_out=BEST)
    assert_same(train(**length, checkpoint=path, held_out=BEST, resume=True), train(**length, held_out=BEST))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"epochs": 2, "schedule": decay}, {"epochs": 3, "schedule": decay}),
        ({"steps": 6}, {"steps": 9}),
        ({"epochs": 2}, {"epochs": 1}),
    ],
)
def test_other_length_is_refused_where_the_past_depends_on_it(first, then, path):
    train(**first, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"found a run of \d+ steps"):
        train(**then, checkpoint=path, resume=True)


def stop(so_far):
    raise StopIteration


@pytest.mark.parametrize(
    ("arguments", "stopped"),
    [({"held_out": HeldOut(HELD_OUT, patience=1)}, "patience"), ({"callbacks": [stop]}, "callback")],
)
def test_run_that_ended_early_has_ended(arguments, stopped, path, caplog):
    first = train(epochs=30, lr=0.5, checkpoint=path, **arguments)
    assert first.stopped == stopped
    assert first.epochs < 30
    assert_same(train(epochs=30, lr=0.5, checkpoint=path, resume=True, **arguments), first)
    assert f"this run was ended by {stopped} after {first.epochs} epochs, and is not trained further" in caplog.text


def test_without_resume_an_old_checkpoint_is_replaced(path):
    train(epochs=2, seed=1, checkpoint=path)
    again = train(epochs=2, checkpoint=path)
    assert_same(again, train(epochs=2))
    assert_same(train(epochs=2, checkpoint=path, resume=True), again)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pair": Tiny(latents=3)}, r"tensors\.decoder\.weight: found float32\[4, 2\], expected float32\[4, 3\]"),
        (
            {"pair": Tiny().double(), "data": X.double(), "held_out": HELD_OUT.double()},
            r"found float32.*expected float64",
        ),
        ({"objective": OtherBound()}, r"objective: found Bound\(\)"),
        ({"batch_size": 16}, "batch_size: found 15, expected 16"),
        ({"seed": 1}, "seed: found 0, expected 1"),
        ({"lr": 0.01}, r"optimizer_groups\.0\.lr: found 0.02, expected 0.01"),
        ({"optimizer": "sgd"}, "optimizer: found Adam, expected SGD"),
        ({"schedule": decay}, "schedule: found None"),
        ({"transform": torch.round}, "transform"),
        ({"data": X[:-1]}, r"data\.0: found float32\[50, 4\]"),
        ({"data": 1 - X}, r"data\.0: .*CRC"),
        ({"held_out": None}, "held_out"),
        ({"held_out": BEST}, r"held_out\.keep_best: found False, expected True"),
    ],
)
def test_checkpoint_of_another_run_is_refused(change, named, path):
    train(epochs=1, checkpoint=path)
    arguments = {"pair": Tiny(seed=9)} | change
    before = {name: t.clone() for name, t in arguments["pair"].state_dict().items()}
    with pytest.raises(CheckpointError, match=named):
        train(**arguments, epochs=1, checkpoint=path, resume=True)
    after = arguments["pair"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, -1])
def test_truncated_file_is_refused(keep, path):
    train(epochs=1, checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    pair = Tiny(seed=9)
    before = pair.decoder.weight.detach().clone()
    with pytest.raises(CheckpointError, match="truncated"):
        train(pair, epochs=1, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="truncated"):
        load(pair, path)
    assert torch.equal(pair.decoder.weight, before)


def test_foreign_files_are_refused(path):
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="found format None"):
        load(Tiny(), path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not safetensors"):
        load(Tiny(), path)


def test_parameters_alone_are_no_checkpoint(path):
    save(Tiny(), path)
    with pytest.raises(CheckpointError, match="from another pair or run"):
        train(epochs=1, checkpoint=path, resume=True)


# --- files --------------------------------------------------------------------------------------------------------


def test_parameters_saved_and_loaded(path):
    one, other = Tiny(seed=1), Tiny(seed=2)
    save(one, path)
    load(other, path)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_parameters_load_from_a_checkpoint(path):
    result, other = train(epochs=1, checkpoint=path), Tiny(seed=2)
    load(other, path)
    assert torch.equal(other.decoder.weight, result.pair.decoder.weight)


def test_loading_into_another_pair_is_refused(path):
    save(Tiny(), path)
    with pytest.raises(CheckpointError, match=r"decoder\.weight"):
        load(Tiny(latents=3), path)
    with pytest.raises(FileNotFoundError):
        load(Tiny(), path.with_name("nowhere"))


def test_tied_parameters_are_saved(path):
    pair, other = Tiny(), Tiny(seed=2)
    for one in (pair, other):
        one.again = one.decoder
    save(pair, path)
    load(other, path)
    assert torch.equal(other.again.weight, pair.decoder.weight)
    assert other.again.weight is other.decoder.weight


def test_file_is_replaced_whole_or_not_at_all(path, monkeypatch):
    write(path, {"a": torch.zeros(2)}, {"n": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write(path, {"a": torch.ones(2)}, {"n": 2})
    tensors, about = read(path)
    assert about == {"n": 1}
    assert torch.equal(tensors["a"], torch.zeros(2))


def test_a_file_is_read_once(path, monkeypatch):
    """Whether its run was compiled is seen at a glance, without its tensors."""
    fit(Tiny(), X.round(), epochs=1, checkpoint=path, progress=False)
    loaded = []
    checksum = ppvae.inference.runtime.checkpoint._checksum

    def counted(tensors, about):
        loaded.append(len(tensors))
        return checksum(tensors, about)

    with monkeypatch.context() as patched:
        patched.setattr("ppvae.inference.runtime.checkpoint._checksum", counted)
        fit(Tiny(), X.round(), epochs=1, checkpoint=path, resume=True, progress=False)
    assert len(loaded) == 1
