"""What callbacks log is the run's history: to a table, the real TensorBoard, and stand-ins of what needs an account."""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch

import ppvae
from ppvae.models import LinearVAE

EPOCHS, STEPS = 3, 6


def train(callback, epochs=EPOCHS, **settings):
    torch.manual_seed(0)
    pair, x = LinearVAE(num_features=4, num_latents=2), torch.randn(30, 4)
    given = {"batch_size": 10, "held_out": x[20:], "progress": False, **settings}
    return ppvae.fit(pair, x[:20], epochs=epochs, callbacks=[callback], **given)


def by_epoch(history):
    return {name: entries.tolist() for name, entries in history.items() if name != "bound_per_step"}


class Recorder:
    """What wandb's run and the module mlflow are asked to log."""

    def __init__(self):
        self.logged = []

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    log_metrics = log

    def check(self, history):
        assert [step for step, _ in self.logged] == [2, 4, 6]
        expected = by_epoch(history)
        assert {name: [metrics[name] for _, metrics in self.logged] for name in expected} == expected


def test_the_table_is_the_history_and_goes_on_when_resumed(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("of an old run")
    kept = {"checkpoint": tmp_path / "run.safetensors", "resume": True}
    train(ppvae.CSVLogger(path), epochs=2, **kept)
    history = train(ppvae.CSVLogger(str(path)), **kept).history
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4"), ("3", "6")]
    for name, entries in by_epoch(history).items():
        assert [float(row[name]) for row in rows] == entries


def test_wandb_is_told_the_history(monkeypatch):
    run, active = Recorder(), Recorder()
    run.check(train(ppvae.WandbLogger(run)).history)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=active))
    active.check(train(ppvae.WandbLogger()).history)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=lambda: run))
    assert ppvae.WandbLogger().run is run


def test_mlflow_is_told_the_history(monkeypatch):
    mlflow = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    mlflow.check(train(ppvae.MLflowLogger()).history)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(ppvae.TensorBoardLogger(tmp_path)).history
    found = EventAccumulator(str(tmp_path)).Reload()
    for name, entries in by_epoch(history).items():
        logged = found.Scalars(name)
        assert [event.step for event in logged] == [2, 4, 6]
        assert [event.value for event in logged] == torch.tensor(entries).tolist()  # it keeps 32 bits


@pytest.mark.parametrize(
    ("module", "make", "package"),
    [
        ("torch.utils.tensorboard", lambda: ppvae.TensorBoardLogger("runs"), "tensorboard"),
        ("wandb", ppvae.WandbLogger, "wandb"),
        ("mlflow", ppvae.MLflowLogger, "mlflow"),
    ],
)
def test_what_is_not_installed_is_named(module, make, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"found no {package} .*; pip install {package}"):
        make()
