"""Training on iterables of batches, and on data whose last batch has one row."""

import pytest
import torch
from support.annealed import Annealed, annealed
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ppvae
from ppvae.inference.training.settings import Checkpoint
from ppvae.models import LinearVAE

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


class Reread:
    """Batches in order, anew at each reading, and how often it was read."""

    def __init__(self, batches):
        self.batches, self.readings = batches, 0

    def __iter__(self):
        self.readings += 1
        return iter(self.batches)


class HaltError(Exception):
    pass


def trained(data, **settings):
    torch.manual_seed(0)
    pair = LinearVAE(num_features=3, num_latents=2)
    settings = {"lr": 0.01, "progress": False} | settings
    return ppvae.fit(pair, data, **settings)


def assert_same(one, other):
    for a, b in zip(one.pair.parameters(), other.pair.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in one.history.keys() - {"seconds"}:
        assert one.history[name].tolist() == other.history[name].tolist(), name


def halting(at):
    class Halting(ppvae.ELBO):
        calls = 0

        def __call__(self, pair, batch, step=torch.inf):
            if step == at and torch.is_grad_enabled():
                raise HaltError
            return super().__call__(pair, batch, step)

        def __repr__(self):
            return "ELBO()"

    return Halting()


def test_steps_are_those_of_a_trainer_on_the_same_batches():
    batches = Reread(X.split(20))
    run = trained(batches, epochs=3)
    torch.manual_seed(0)
    trainer = ppvae.Trainer(LinearVAE(num_features=3, num_latents=2), lr=0.01)
    bounds = [trainer.step(batch) for _ in range(3) for batch in X.split(20)]
    assert run.history["bound_per_step"].tolist() == bounds
    for a, b in zip(run.pair.parameters(), trainer.pair.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (run.epochs, run.steps, run.stopped, batches.readings) == (3, 9, "completed", 3)
    by_points = [sum(n * b for n, b in zip((20, 20, 10), bounds[i : i + 3], strict=True)) / 50 for i in (0, 3, 6)]
    torch.testing.assert_close(run.history["bound"].tolist(), by_points)


def test_steps_end_within_an_epoch():
    run = trained(Reread(X.split(20)), steps=4)
    assert (run.epochs, run.steps, len(run.history["bound"])) == (2, 4, 2)


SOURCES = {
    "iterable": lambda: Reread(X.split(20)),
    "loader": lambda: DataLoader(TensorDataset(X), batch_size=20, shuffle=True),
    "loader of NumPy's": lambda: DataLoader(X.numpy(), batch_size=20, shuffle=True),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("halt_at", "every"), [(5, 2), (5, 1), (3, 3), (1, 1)])
def test_resumed_bit_for_bit(name, halt_at, every, tmp_path):
    """The order of a loader that shuffles is the same again, whatever the caller's generator."""
    undisturbed, path = trained(SOURCES[name](), epochs=3), tmp_path / "run"
    checkpoint = Checkpoint(path, every=every)
    settings = {"epochs": 3, "objective": halting(halt_at), "checkpoint": checkpoint}
    with pytest.raises(HaltError):
        trained(SOURCES[name](), **settings)
    torch.manual_seed(99)
    assert_same(trained(SOURCES[name](), **settings | {"objective": halting(-1), "resume": True}), undisturbed)


def test_more_epochs_are_those_of_a_longer_run(tmp_path):
    path = tmp_path / "run"
    trained(Reread(X.split(20)), epochs=1, checkpoint=path)
    assert_same(
        trained(Reread(X.split(20)), epochs=3, checkpoint=path, resume=True), trained(Reread(X.split(20)), epochs=3)
    )


def test_epochs_of_a_loader_that_shuffles_differ_and_are_decided_by_the_seed():
    seen = []

    def note(x):
        seen.append(x[:, 0].tolist())
        return x

    loader = DataLoader(TensorDataset(X), batch_size=50, shuffle=True)
    for seed in (0, 0, 1):
        trained(loader, epochs=2, seed=seed, transform=note)
    steps = [seen[i * 4 + 1 + j * 2] for i in range(3) for j in (0, 1)]  # each epoch's, after the check's
    unique = {tuple(order) for order in seen}
    assert len(steps) == 6
    assert all(sorted(order) == sorted(X[:, 0].tolist()) for order in seen if len(order) == 50)
    assert len([order for order in unique if len(order) == 50]) == 4


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (lambda: iter(X.split(20)), {"epochs": 2}, "read once only, for 2 epochs.*DataLoader"),
        (lambda: (x for x in X.split(20)), {"steps": 4}, "generator, which can be read once only, at epoch 2"),
        (lambda: Reread([]), {"epochs": 1}, "found 0 batches at epoch 1"),
        (lambda: Reread(X.split(20)), {"epochs": 2, "schedule": lambda done: 1.0}, "schedule.*pass steps="),
        (lambda: Reread(X.split(20)), {"epochs": 2, "drop_last": True}, "drop_last.*of its own"),
        (lambda: Reread(X.split(20)), {"epochs": 2, "weights": torch.ones(50)}, "weights: found given"),
        (lambda: Reread([X, X / 0]), {"epochs": 1}, "found (inf|-inf|nan) at index"),
    ],
)
def test_refusals(data, settings, words):
    with pytest.raises(ValueError, match=words):
        trained(data(), **settings)


def test_every_batch_of_the_first_epoch_is_checked():
    pair = ppvae.models.VAE.mlp(3, 2, [4])
    binary = X.gt(0).float()
    with pytest.raises(ValueError, match="data, batch 1: found data point 4 outside the model's support"):
        ppvae.fit(pair, Reread([binary, torch.cat([binary[:4], X[:1]])]), epochs=1, progress=False)


def test_a_stream_that_can_be_read_once_is_trained_on_once():
    run = trained((x for x in X.split(20)), epochs=1)
    assert_same(run, trained(Reread(X.split(20)), epochs=1))


def test_data_sets_without_a_length():
    class Rows(IterableDataset):
        def __iter__(self):
            return iter(X)

    run = trained(DataLoader(Rows(), batch_size=20), epochs=2, held_out=X)
    assert (run.steps, len(run.history["held_out"])) == (6, 2)


def test_arguments_that_are_no_data_may_change_from_batch_to_batch():
    run = ppvae.fit(Annealed(), Reread([annealed(0.1), annealed(0.9)]), epochs=2, progress=False)
    assert run.steps == 4


class Normed(LinearVAE):
    """A guide with batch norm."""

    def __init__(self):
        super().__init__(num_features=3, num_latents=2)
        self.norm = nn.BatchNorm1d(3)

    def guide(self, x):
        super().guide(self.norm(x))


@pytest.mark.parametrize("settings", [{"batch_size": 7}, {"batch_size": 1}])
def test_a_last_batch_of_one_row_is_refused_under_batch_norm_before_anything_is_changed(settings):
    pair = Normed()
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    with pytest.raises(ValueError, match=r"batch_size: found a batch of one data point under batch norm.*drop_last"):
        ppvae.fit(pair, X, epochs=1, progress=False, **settings)
    assert all(torch.equal(t, before[name]) for name, t in pair.state_dict().items())
    trained(X, epochs=1, **settings)  # without batch norm it can be trained on
    ppvae.fit(pair, X, epochs=1, batch_size=7, drop_last=True, progress=False)
    with pytest.raises(ValueError, match="under batch norm"):
        ppvae.Trainer(Normed()).step(X[:1])


def test_drop_last_leaves_out_the_smaller_batch():
    run = trained(X, epochs=2, batch_size=20, drop_last=True)
    assert (run.steps, run.epochs, len(run.history["bound"])) == (4, 2, 2)
    assert trained(X, epochs=2, batch_size=25, drop_last=True).steps == trained(X, epochs=2, batch_size=25).steps
    with pytest.raises(ValueError, match="batch_size: found 64 with drop_last=True and 50 data points"):
        trained(X, epochs=1, batch_size=64, drop_last=True)


def test_drop_last_is_one_of_the_settings_of_a_run(tmp_path):
    trained(X, epochs=1, batch_size=20, drop_last=True, checkpoint=tmp_path / "run")
    trained(X, epochs=2, batch_size=20, drop_last=True, checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(ppvae.CheckpointError, match="steps_per_epoch: found 2, expected 3"):
        trained(X, epochs=2, batch_size=20, checkpoint=tmp_path / "run", resume=True)


def test_persistent_workers_are_refused_with_a_checkpoint(tmp_path):
    """Their generators are set once, so what they draw in a later epoch could not be drawn again."""
    loader = DataLoader(TensorDataset(X), batch_size=10, num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="data: found a DataLoader with persistent_workers=True and a checkpoint"):
        trained(loader, epochs=1, checkpoint=tmp_path / "run.pt")
    assert trained(loader, epochs=2).steps == 10
