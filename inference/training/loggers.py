"""Callbacks that log a run of training to what people use: a table, TensorBoard, Weights & Biases, MLflow."""

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

from ppvae.arguments import File, checked
from ppvae.files import check_target
from ppvae.inference.training.result import Fit


def _last_epoch(fit: Fit) -> dict[str, float]:
    """What the history has per epoch, of the last one."""
    return {name: float(entries[-1]) for name, entries in sorted(fit.history.items()) if name != "bound_per_step"}


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"found no {package} ({error}), expected it installed; pip install {package}") from error


class CSVLogger:
    """Writes a line per epoch to a file: the bound, the held-out bound, the learning rate, the seconds.

    A run that starts replaces the file, one that is resumed goes on with it.

    Args:
        path: of the file.

    Raises:
        TypeError: the path is no path.
        ValueError: it leads to a folder, or to a device.
        OSError: the file cannot be written there.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from ppvae.inference.training.fitting import fit
        >>> from ppvae.models import LinearVAE
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.csv"
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.zeros(200, 5)
        >>> run = fit(pair, x, epochs=2, callbacks=[CSVLogger(path)], progress=False)
        >>> path.read_text().splitlines()[0]
        'epoch,step,bound,learning_rate,seconds'
    """

    @checked
    def __init__(self, path: File):
        check_target(path)
        self.path = Path(path)

    def __call__(self, fit: Fit) -> None:
        row = {"epoch": fit.epochs, "step": fit.steps, **_last_epoch(fit)}
        starts = fit.epochs == 1 or not self.path.exists()
        with self.path.open("w" if starts else "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if starts:
                writer.writeheader()
            writer.writerow(row)


class TensorBoardLogger:
    """Logs each epoch to TensorBoard, over the number of steps: `tensorboard --logdir` shows it.

    Args:
        folder: of the run; another for each run.

    Raises:
        TypeError: the folder is no path.
        ImportError: TensorBoard is not installed.

    Example:
        >>> ppvae.fit(pair, x, epochs=9, callbacks=[ppvae.TensorBoardLogger("runs/first")])  # doctest: +SKIP
    """

    @checked
    def __init__(self, folder: File):
        self.writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def __call__(self, fit: Fit) -> None:
        for name, value in _last_epoch(fit).items():
            self.writer.add_scalar(name, value, fit.steps)
        self.writer.flush()


class WandbLogger:
    """Logs each epoch to Weights & Biases, over the number of steps.

    Args:
        run: what `wandb.init(...)` returned; by default the active run, or else a new one.

    Raises:
        ImportError: wandb is not installed.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from ppvae.inference.training.fitting import fit
        >>> from ppvae.models import LinearVAE
        >>> run = SimpleNamespace(log=lambda metrics, step: print(step, list(metrics)))  # wandb.init(...)
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.zeros(200, 5)
        >>> _ = fit(pair, x, epochs=1, callbacks=[WandbLogger(run)], progress=False)
        2 ['bound', 'learning_rate', 'seconds']
    """

    def __init__(self, run: Any = None):
        if run is None:
            wandb = _imported("wandb", "wandb")
            run = wandb.run or wandb.init()
        self.run = run

    def __call__(self, fit: Fit) -> None:
        self.run.log(_last_epoch(fit), step=fit.steps)


class MLflowLogger:
    """Logs each epoch to MLflow, over the number of steps, in the active run, or else in a new one.

    Raises:
        ImportError: mlflow is not installed.

    Example:
        >>> ppvae.fit(pair, x, epochs=9, callbacks=[ppvae.MLflowLogger()])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.mlflow = _imported("mlflow", "mlflow")

    def __call__(self, fit: Fit) -> None:
        self.mlflow.log_metrics(_last_epoch(fit), step=fit.steps)
