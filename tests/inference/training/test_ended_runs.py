"""Runs that something ended (patience, a callback, a signal), or whose file cannot be written, and how they go on."""

import os
import signal

import pytest
import torch
from support.disks import fill
from support.small_pairs import Busy

import ppvae
from ppvae import Checkpoint, CheckpointError, HeldOut, NonFiniteError
from ppvae.inference.runtime.checkpoint import read, write

X = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).round()
HELD_OUT = torch.rand(20, 4, generator=torch.Generator().manual_seed(2)).round()


def pair(seed=0):
    torch.manual_seed(seed)
    return Busy()


def train(epochs=30, seed=0, **settings):
    settings = {"batch_size": 15, "lr": 0.3, "progress": False} | settings
    return ppvae.fit(pair(seed), X, epochs=epochs, **settings)


def assert_same(one, other):
    a, b = one.pair.state_dict(), other.pair.state_dict()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    for name in one.history.keys() - {"seconds"}:
        assert one.history[name].tolist() == other.history[name].tolist()
    assert (one.epochs, one.steps, one.stopped) == (other.epochs, other.steps, other.stopped)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


# --- ended early, and going on -------------------------------------------------------------------------------------


def impatient(patience, **settings):
    return train(held_out=HeldOut(HELD_OUT, patience=patience, keep_best=True), **settings)


@pytest.mark.parametrize("patience", [4, None])
def test_a_run_that_patience_ended_goes_on_with_more_of_it(patience, path):
    first = impatient(1, epochs=12, checkpoint=path)
    assert first.stopped == "patience"
    expected = impatient(patience, epochs=12)
    assert expected.epochs > first.epochs
    assert_same(impatient(patience, epochs=12, seed=9, checkpoint=path, resume=True), expected)


def test_a_run_that_patience_ended_goes_on_with_more_epochs(path):
    """Until it is judged after the next epoch."""
    first = impatient(1, checkpoint=path)
    again = impatient(1, epochs=60, checkpoint=path, resume=True)
    assert again.epochs > first.epochs
    assert again.history["held_out"][: first.epochs].tolist() == first.history["held_out"].tolist()


def after(epochs):
    def stop(so_far):
        if so_far.epochs >= epochs:
            raise StopIteration

    return stop


@pytest.mark.parametrize("callbacks", [[], [after(5)]])
def test_a_run_that_a_callback_ended_goes_on_where_none_ends_it(callbacks, path):
    assert train(6, callbacks=[after(2)], checkpoint=path).stopped == "callback"
    assert_same(train(6, seed=9, callbacks=callbacks, checkpoint=path, resume=True), train(6, callbacks=callbacks))


@pytest.mark.parametrize("fails_in", [0, 1])
def test_what_a_callback_draws_and_changes_is_the_same_in_a_run_that_goes_on(fails_in, path):
    """Whether one of the third epoch's callbacks fails, which are then called again, or a step after them."""
    fails, drawn = iter([fails_in]), []

    def change(so_far):
        drawn.append(torch.rand(()).item())
        with torch.no_grad():
            so_far.pair.decoder.bias.clamp_(max=drawn[-1])

    def fail(so_far):
        if so_far.epochs == 3 and next(fails, None) is not None:
            raise OSError("no room for the picture")

    def steps_fail(x):
        if len(drawn) == 3 and next(fails, None) is not None:
            raise OSError("no more room")
        return x

    settings = {"callbacks": [change, *[fail][fails_in:]]} | ({"transform": steps_fail} if fails_in else {})
    expected = train(6, callbacks=[change])
    drawn.clear()
    with pytest.raises(OSError, match="room"):
        train(6, checkpoint=path, **settings)
    assert_same(train(6, seed=9, checkpoint=path, resume=True, **settings), expected)
    assert len({*drawn}) == 6


def test_what_a_callback_draws_changes_no_step():
    assert_same(train(4, callbacks=[lambda run: run.pair.sample(3)]), train(4))


def test_a_run_that_a_callback_ended_goes_on_with_more_epochs(path):
    train(6, callbacks=[after(2)], checkpoint=path)
    again = train(7, callbacks=[after(2)], checkpoint=path, resume=True)
    assert_same(again, train(7, callbacks=[after(3)]))


def test_a_time_budget_for_each_start(path):
    """The same script, started again and again, comes to its end."""

    def started():
        seen = []

        def stop(so_far):
            seen.append(so_far.epochs)
            if so_far.epochs - seen[0] >= 2:  # at the first start the third epoch's end, at others two epochs later
                raise StopIteration

        return train(6, callbacks=[stop], checkpoint=path, resume=True)

    runs = [started() for _ in range(3)]
    assert [(run.stopped, run.epochs) for run in runs] == [("callback", 3), ("callback", 5), ("completed", 6)]
    assert_same(runs[-1], train(6))


def test_a_run_of_batches_that_did_more_epochs_is_refused(path):
    """The number of steps in an epoch is not known, which was no reason to go on forever."""

    class Batches:
        def __iter__(self):
            return iter(X.split(15))

    def trained(epochs, **settings):
        return ppvae.fit(pair(), Batches(), epochs=epochs, checkpoint=path, progress=False, **settings)

    trained(3)
    with pytest.raises(CheckpointError, match="found a run of 3 epochs, with 3 epochs and 12 steps done, expected one"):
        trained(2, resume=True)
    assert trained(4, resume=True).epochs == 4


# --- signals ------------------------------------------------------------------------------------------------------


class Signaled(ppvae.ELBO):
    """Sends this process a signal in a step."""

    def __call__(self, pair, batch, step=float("inf")):
        if step == Signaled.at:
            os.kill(os.getpid(), Signaled.number)
        return super().__call__(pair, batch, step)


@pytest.fixture
def terminated(monkeypatch):
    monkeypatch.setattr(Signaled, "at", 5, raising=False)
    monkeypatch.setattr(Signaled, "number", signal.SIGTERM, raising=False)


def test_sigterm_writes_a_checkpoint_and_then_ends_the_process(terminated, path, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        train(4, objective=Signaled(), checkpoint=path)
    assert ended.value.code == 128 + signal.SIGTERM  # as shells say
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert 5 <= read(path)[1]["steps"] <= 7
    monkeypatch.setattr(Signaled, "at", None)
    assert_same(train(4, seed=9, objective=Signaled(), checkpoint=path, resume=True), train(4, objective=Signaled()))


def test_a_handler_of_the_user_is_called_once_the_checkpoint_is_written(terminated, path, monkeypatch):
    found = []
    monkeypatch.setattr(Signaled, "at", 5)
    before = signal.signal(signal.SIGTERM, lambda *_: found.append(read(path)[1]["run"]["stopped"]))
    try:
        run = train(4, objective=Signaled(), checkpoint=path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run.stopped, found) == ("interrupted", ["interrupted"])


def test_a_signal_that_is_ignored_ends_nothing(terminated, path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert train(4, objective=Signaled(), checkpoint=path).stopped == "completed"
    finally:
        signal.signal(signal.SIGTERM, before)


# --- files that cannot be written ---------------------------------------------------------------------------------


def test_a_bad_target_is_found_before_training(tmp_path):
    steps = []
    for target, error in ((tmp_path, ValueError), ("/dev/null", ValueError), ("/dev/null/run", OSError)):
        with pytest.raises(error, match=str(target)):
            train(2, transform=lambda batch: steps.append(1) or batch, checkpoint=target)
    assert steps == []


@pytest.mark.parametrize("full", ["from the start", "later"])
def test_a_full_disk_ends_no_training(full, small_disk, caplog):
    path = small_disk / "run"

    if full == "from the start":
        fill(small_disk)
    run = train(4, callbacks=[lambda so_far: fill(small_disk) if so_far.epochs == 2 else None], checkpoint=path)
    assert_same(run, train(4))
    assert run.warning.startswith("the checkpoint could not be written after 16 steps: ")
    assert run.warning in repr(run)
    assert "No space left on device" in run.warning
    assert str(path) in run.warning
    assert caplog.text.count("the checkpoint could not be written") == 1
    assert path.exists() == (full == "later")
    assert sorted(each.name for each in small_disk.iterdir()) == (["filler", "run"] if path.exists() else ["filler"])
    (small_disk / "filler").unlink()
    resumed = train(4, checkpoint=path, resume=True)  # from epoch 2, or from the start
    assert_same(resumed, run)
    assert not resumed.warning


def test_a_folder_that_takes_the_place_of_the_file_ends_no_training(path):
    def take(so_far):
        if so_far.epochs == 2:
            path.unlink()
            path.mkdir()

    run = train(4, callbacks=[take], checkpoint=path)
    assert_same(run, train(4))
    assert f"path: found a directory at {path}" in run.warning


# --- what a file may hold -----------------------------------------------------------------------------------------


def rewritten(path, change):
    """The file with something else in it, and a checksum that holds."""
    tensors, about = read(path)
    change(tensors, about)
    write(path, tensors, about)


CHANGES = {
    "NaN in a parameter": lambda tensors, about: next(
        t for name, t in tensors.items() if name.startswith("pair.") and t.is_floating_point() and t.dim() == 2
    ).fill_(torch.nan),
    "NaN in an average": lambda tensors, about: next(
        t for name, t in tensors.items() if name.startswith("average.")
    ).fill_(torch.nan),
    "a missing slot": lambda tensors, about: tensors.pop("optimizer.0.exp_avg"),
    "no state of the optimizer": lambda tensors, about: [
        tensors.pop(name) for name in list(tensors) if name.startswith("optimizer.")
    ],
    "a slot of another shape": lambda tensors, about: tensors.update({"optimizer.0.exp_avg": torch.zeros(1)}),
    "the optimizer of another": lambda tensors, about: about["optimizer"]["slots"].update({"99.name": 1.0}),
    "no optimizer": lambda tensors, about: about.pop("optimizer"),
    "an optimizer's list": lambda tensors, about: about.update(optimizer=[]),
    "no generators": lambda tensors, about: (tensors.pop("random0.cpu"), about["groups"].pop("random0")),
    "other generators": lambda tensors, about: tensors["random0.cpu"].fill_(7),
    "steps in words": lambda tensors, about: about.update(steps="four"),
    "no steps": lambda tensors, about: about.pop("steps"),
    "groups in a list": lambda tensors, about: about.update(groups=list(about["groups"])),
    "no history": lambda tensors, about: about["groups"].pop("history"),
    "a shorter history": lambda tensors, about: tensors.update({"history.bound": torch.zeros(0, dtype=torch.float64)}),
    "no run": lambda tensors, about: about.pop("run"),
    "an epoch in words": lambda tensors, about: about["run"].update(epoch="one"),
    "an example of other names": lambda tensors, about: about["example"].update(names=["x", "y"]),
    "an example in words": lambda tensors, about: about.update(example="none"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_foreign_contents_are_refused_and_change_nothing(name, path):
    options = ppvae.StepOptions(ema=0.9)
    train(1, checkpoint=path, options=options)
    rewritten(path, CHANGES[name])
    other = pair(9)
    other.check(X)
    before = {key: t.clone() for key, t in other.state_dict().items()}
    generators = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=str(path)):
        ppvae.fit(
            other, X, epochs=2, batch_size=15, lr=0.3, options=options, checkpoint=path, resume=True, progress=False
        )
    assert [key for key, t in other.state_dict().items() if not torch.equal(t, before[key])] == []
    assert torch.equal(torch.get_rng_state(), generators)


def test_nan_is_not_written_over_a_good_checkpoint(path):
    """An update may overflow though its gradient is finite: the old file is what the run can go on from."""

    def overflow(so_far):
        if so_far.epochs == 2:
            next(so_far.pair.parameters()).data.fill_(torch.nan)
            raise StopIteration

    with pytest.raises(NonFiniteError, match=r"found NaN in parameter '.*' after a step") as caught:
        train(4, callbacks=[overflow], checkpoint=path)
    assert caught.value.fit.epochs == 2
    assert_same(train(4, checkpoint=path, resume=True), train(4))


def test_nan_is_neither_saved_nor_loaded(path):
    good, bad = pair(), pair(1)
    ppvae.save(good, path)
    next(bad.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="pair: found NaN in parameter"):
        ppvae.save(bad, path)
    trainer = ppvae.Trainer(bad)
    with pytest.raises(NonFiniteError, match="was not written"):
        trainer.save(path)
    ppvae.load(bad, path)
    assert torch.equal(next(bad.parameters()), next(good.parameters()))
    rewritten(path, CHANGES["NaN in a parameter"])
    with pytest.raises(CheckpointError, match="found NaN in '"):
        ppvae.load(bad, path)
    assert torch.equal(next(bad.parameters()), next(good.parameters()))


def test_written_within_epochs_on_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    train(2, checkpoint=Checkpoint(tmp_path / "link", every=1))
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real")[1]["steps"] == 8
