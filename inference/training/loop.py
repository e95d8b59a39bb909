"""The training loop behind `ppvae.fit`: epochs, held-out bounds, history, checkpoints, and when to stop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import floating_converted
from ppvae.inference.objectives.protocol import Maximized
from ppvae.inference.runtime.checkpoint import CheckpointError, describe, fingerprint
from ppvae.inference.runtime.distributed import Processes
from ppvae.inference.runtime.isolation import interrupts_held, own_randomness
from ppvae.inference.training.feeding import Minibatch, Source
from ppvae.inference.training.nonfinite import NonFiniteError
from ppvae.inference.training.resuming import State, plain, restore, store
from ppvae.inference.training.settings import Checkpoint, HeldOut
from ppvae.inference.training.trainer import HELD_OUT, Trainer
from ppvae.mode import mode
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")


@dataclass(repr=False)
class Fit:
    """The result of training.

    Attributes:
        pair: the trained pair.
        objective: what was maximized.
        history: arrays. Per epoch: `bound` (mean value of the objective over the epoch's steps) and, if asked for,
            `held_out`, both in nats per data point; `learning_rate` (of its last step); `seconds` (since the start).
            Per step: `bound_per_step`.
        epochs: how many were done, including a last one cut short by `steps`.
        steps: how many were done.
        seconds: how long they took.
        stopped: why training ended: "completed", "patience", "callback", "interrupted" or "non-finite"; empty while
            it runs.
    """

    pair: Pair
    objective: Maximized
    history: dict[str, np.ndarray]
    epochs: int
    steps: int
    seconds: float
    stopped: str

    def __repr__(self) -> str:
        last = "".join(
            f", {name} {self.history[key][-1]:.3f}"
            for key, name in (("bound", "bound"), ("held_out", "held out"))
            if len(self.history.get(key, ()))
        )
        return (
            f"Fit({type(self.pair).__name__} by {describe(self.objective)}: {self.stopped or 'running'} after "
            f"{self.epochs} epochs, {self.steps} steps, {self.seconds:.1f} s{last})"
        )


@dataclass(kw_only=True)
class Training:
    """One run of training: a trainer, the data for its steps, and the state besides the trainer's.

    Attributes:
        trainer: takes the steps.
        source: gives each step its data points.
        batch_size: data points that are measured together.
        epochs: how many there are to be, or None.
        num_steps: how many steps there are to be, or None where the epochs' length is not known.
        schedule: that of `fit`, from the fraction of steps done; the trainer has its own.
        transform: applied to each minibatch.
        held_out: the held-out data, already a batch, and what to do with them.
        checkpoint: where to keep the run.
        callbacks: called after each epoch.
        epoch: how many are done. This and the attributes below change during the run.
        sizes: data points of the steps in this epoch.
        stopped: as in `Fit`.
        seconds: of training.
        history: as in `Fit`, in lists.
        best: the pair's state after the best epoch, if it is to be kept.
        cut_short: whether the last epoch ended before its data did.
    """

    trainer: Trainer
    source: Source
    batch_size: int
    epochs: int | None
    num_steps: int | None
    schedule: Callable[[float], float] | None
    transform: Callable[[Any], Any] | None
    held_out: HeldOut | None
    checkpoint: Checkpoint | None
    callbacks: Sequence[Callable[[Fit], None]]

    epoch: int = 0
    sizes: list[int] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    cut_short: bool = False

    def __post_init__(self) -> None:
        names = ["bound", "learning_rate", "seconds", "bound_per_step"] + ["held_out"] * (self.held_out is not None)
        self.history = {name: [] for name in names}
        self.trainer.compiled_size = self.source.batch_size
        self.settings = self._settings() if self.checkpoint else {}

    @property
    def processes(self) -> Processes:
        """Those that train together."""
        return self.trainer.processes

    def run(self, progress: bool) -> Fit:
        """Trains to the end, or until interrupted."""
        self._resumed_at = time.perf_counter() - self.seconds
        held: contextlib.AbstractContextManager[list[bool]] = contextlib.nullcontext([])
        if self.processes.size > 1:
            held = interrupts_held()  # all stop after the same step, or some would wait for the others forever
        with self.trainer.running(), held as self._signals:
            try:
                with tqdm(total=self.num_steps, initial=self.trainer.steps, unit="step", disable=not progress) as bar:
                    while not self.stopped:
                        self._run_epoch(bar)
            except KeyboardInterrupt:
                with interrupts_held():
                    self._signals.clear()
                    self.stopped = self.stopped or "interrupted"
                    self._save()
                of = f" of {self.num_steps}" if self.num_steps else ""
                logger.warning("training interrupted after %d%s steps", self.trainer.steps, of)
            except NonFiniteError as error:
                self.stopped = "non-finite"
                error.fit = self.result()
                raise
        if self.best:
            self.trainer.pair.load_state_dict(self.best)
        else:
            self.trainer.update.swap_averages()
        self.trainer.pair.checked_kinds.clear()
        return self.result()

    def result(self) -> Fit:
        """The training so far."""
        history = {name: np.array(values) for name, values in self.history.items()}
        trainer = self.trainer
        return Fit(trainer.pair, trainer.objective, history, self.epoch, trainer.steps, self.seconds, self.stopped)

    def _run_epoch(self, bar: tqdm) -> None:
        trainer = self.trainer
        if self.callbacks:
            trainer.prepared = None  # they may have changed the pair
        minibatches = self.source.minibatches(self.epoch, len(self.sizes))
        while trainer.steps != self.num_steps:
            trainer.update.interrupted = bool(self._signals)
            with interrupts_held():
                minibatch = next(minibatches, None)
                if minibatch is None:
                    break
                self._take_step(minibatch)
                if self.checkpoint and self.checkpoint.every and trainer.steps % self.checkpoint.every == 0:
                    self._save()
            compiled = f", compiled in {trainer.compile_seconds:.1f} s" if trainer.compile_seconds else ""
            bar.set_postfix_str(f"bound {self.history['bound_per_step'][-1]:.3f}{compiled}", refresh=False)
            bar.update()
            if trainer.update.interrupted:
                raise KeyboardInterrupt
        self._end_epoch()

    def _take_step(self, minibatch: Minibatch) -> None:
        def draw() -> Batch:
            batch = minibatch.data
            if self.transform and len(minibatch.index):
                batch = self.transform(floating_converted(batch, self.trainer.pair))
            return self.trainer.converted(batch)

        bound = self.trainer.take_step(draw, minibatch.index, minibatch.num_points, minibatch.weights)
        self.history["bound_per_step"].append(bound)
        self.sizes.append(minibatch.num_points)
        self.seconds = time.perf_counter() - self._resumed_at

    def _end_epoch(self) -> None:
        """History, held-out bound, best state, checkpoint, callbacks, and whether to go on."""
        row = {
            "bound": np.average(self.history["bound_per_step"][-len(self.sizes) :], weights=self.sizes),
            "learning_rate": self.trainer.optimizer.param_groups[0]["lr"],
        }
        if self.held_out is not None:
            row["held_out"] = self._held_out_bound(self.held_out.data)
        with interrupts_held():
            row["seconds"] = self.seconds = time.perf_counter() - self._resumed_at
            for name, entry in row.items():
                self.history[name].append(float(entry))
            self.epoch += 1
            self.cut_short = len(self.sizes) != self.source.steps_per_epoch
            self.sizes = []
            self._judge()
            self._save()
        if self.processes.first(self.processes.rank == 0 and self._call_back()):
            self.stopped = "callback"
            self._save()

    def _call_back(self) -> bool:
        """Whether a callback wants to stop; with several processes, only process 0 calls them."""
        try:
            for callback in self.callbacks:
                callback(self.result())
        except StopIteration:
            return True
        return False

    def _judge(self) -> None:
        """Keeps the state if it is the best so far, and sets `stopped` if training is over."""
        if self.held_out is not None:
            best = int(np.argmax(np.nan_to_num(self.history["held_out"], nan=-math.inf)))
            since = self.epoch - 1 - best
            if self.held_out.keep_best and since == 0:
                with self.trainer.averaged():
                    self.best = {name: t.detach().clone() for name, t in self.trainer.pair.state_dict().items()}
            if self.held_out.patience and since >= self.held_out.patience:
                self.stopped = "patience"
        if self.trainer.steps == self.num_steps or self.epoch == self.epochs:
            self.stopped = "completed"

    @torch.no_grad()
    def _held_out_bound(self, held_out: Batch) -> float:
        """Mean value of the objective; the same draws at each epoch, so that only the parameters differ."""
        trainer = self.trainer
        total = torch.zeros(1, dtype=torch.float64, device=trainer.device)
        own = self.processes.share(torch.arange(num_rows(held_out), device=trainer.device))
        seed = (trainer.seed, HELD_OUT, self.processes.rank)
        with own_randomness(seed, trainer.device), mode(trainer.pair, training=False), trainer.averaged():
            for index in own.split(self.batch_size):
                with interrupts_held():
                    if len(index):
                        points = trainer.converted(rows(held_out, index))
                        total += trainer.objective(trainer.pair, points)[0].sum()
        return self.processes.sum(total).item() / num_rows(held_out)

    def _save(self) -> None:
        if self.checkpoint is not None:
            store(self, self.checkpoint.path)

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            CheckpointError: the file is damaged, or from another run; nothing has been changed then.
        """
        if self.checkpoint is not None and self.processes.first(Path(self.checkpoint.path).exists()):
            restore(self, self.checkpoint.path)

    def _settings(self) -> dict[str, Any]:
        held_out = self.held_out and vars(self.held_out) | {"data": fingerprint(self.held_out.data)}
        return self.trainer.settings | plain(
            {
                "schedule": [self.schedule(i / 8) for i in range(9)] if self.schedule else None,
                "transform": describe(self.transform) if self.transform else None,
                "data": self.source.description,
                "steps_per_epoch": self.source.steps_per_epoch,
                "held_out": held_out,
                "batch_size": self.batch_size,
            }
        )

    def state(self) -> State:
        """What a checkpoint holds: the trainer's state, and this run's own."""
        state = self.trainer.state()
        state.tensors["best"] = self.best
        state.tensors["history"] = {name: torch.tensor(v, dtype=torch.float64) for name, v in self.history.items()}
        own = ("num_steps", "epoch", "sizes", "cut_short", "stopped", "seconds")
        state.values["run"] = {name: getattr(self, name) for name in own}
        return state

    def set_state(self, state: State) -> None:
        """Goes on from a state whose settings match this run's; refuses one of another length."""
        run, done = state.values["run"], state.values["steps"]
        self._check_length(run, done)
        self.trainer.set_state(state)
        self.best = {name: t.to(self.trainer.device) for name, t in state.tensors["best"].items()}
        self.history = {name: t.tolist() for name, t in state.tensors["history"].items()}
        self.epoch, self.sizes, self.cut_short = run["epoch"], run["sizes"], run["cut_short"]
        self.seconds = run["seconds"]
        more = self.epoch < self.epochs if self.epochs else done < (self.num_steps or 0)
        lengthened = run["stopped"] == "completed" and more
        self.stopped = "" if lengthened or run["stopped"] == "interrupted" else run["stopped"]

    def _check_length(self, run: dict[str, Any], done: int) -> None:
        """A run may go on to another length only where its past did not depend on it."""
        cut_short = run["stopped"] == "completed" and run["cut_short"]
        too_many = self.num_steps is not None and done > self.num_steps
        if self.num_steps != run["num_steps"] and (self.schedule or cut_short or too_many):
            raise CheckpointError(
                f"checkpoint: found a run of {run['num_steps']} steps, {done} of them done, expected "
                f"{self.num_steps}; another length is possible only without a schedule, if the run has not ended "
                "within an epoch and no more is done than asked for. Give the length it was written with, or "
                "use another file"
            )
