"""The training loop behind `ppvae.fit`: epochs, held-out bounds, history, checkpoints, and when to stop."""

import contextlib
import logging
import math
import operator
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppvae.batches import Transform
from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_layout,
    describe,
    fingerprint,
    layout,
    refuse_nan,
    require,
)
from ppvae.inference.runtime.isolation import interrupts_held, own_randomness
from ppvae.inference.training.feeding import Source
from ppvae.inference.training.held_out import HeldOutBound
from ppvae.inference.training.mixed_precision import networks_unchanged
from ppvae.inference.training.nonfinite import NonFiniteError
from ppvae.inference.training.result import Fit
from ppvae.inference.training.resuming import State, plain, restore, store
from ppvae.inference.training.schedulers import Scheduler
from ppvae.inference.training.settings import Checkpoint, HeldOut
from ppvae.inference.training.steps import MOST, Steps, Taken
from ppvae.inference.training.trainer import CALLBACKS, Trainer
from ppvae.progress import progress_bar
from ppvae.state import copied_state, saved_state, set_state, state_of
from ppvae.threads import users_own

logger = logging.getLogger("ppvae")

RUN = {
    "epochs": int | None,
    "num_steps": int | None,
    "epoch": int,
    "sizes": list,
    "cut_short": bool,
    "uncalled": bool,
    "stopped": str,
    "seconds": float,
}
"""What a checkpoint keeps of a run, by type."""


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
        scheduler: one of torch's.
        transform: applied to each minibatch.
        held_out: the held-out data, already a batch, and what to do with them.
        checkpoint: where to keep the run.
        callbacks: called after each epoch.
        epoch: how many are done. This and the attributes below change during the run.
        sizes: data points of the steps in this epoch.
        stopped, warning: as in `Fit`.
        seconds: of training.
        history: as in `Fit`, in lists.
        best: the pair's state after the best epoch, if it is to be kept.
        cut_short, uncalled: whether the last epoch ended before its data did; whether callbacks are still to be called.
    """

    trainer: Trainer
    source: Source
    batch_size: int
    epochs: int | None
    num_steps: int | None
    schedule: Callable[[float], float] | None
    scheduler: Scheduler | None
    transform: Transform | None
    held_out: HeldOut | None
    checkpoint: Checkpoint | None
    callbacks: Sequence[Callable[[Fit], None]]

    epoch: int = 0
    sizes: list[int] = field(default_factory=list)
    stopped: str = ""
    warning: str = ""
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    cut_short: bool = False
    uncalled: bool = False

    def __post_init__(self) -> None:
        self.processes = self.trainer.processes
        names = ["bound", "learning_rate", "seconds", "bound_per_step"] + ["held_out"] * (self.held_out is not None)
        self.history = {name: [] for name in names}
        self.trainer.programs.size = self.source.batch_size
        between = (self.held_out, self.checkpoint, self.scheduler, *self.callbacks)
        joined = self.source.whole_steps == self.source.steps_per_epoch and all(each is None for each in between)
        self._steps = Steps(self.trainer, self.source, self.transform, self.scheduler, joined)
        self._bound = self.held_out and HeldOutBound(self.trainer, self.held_out.data, self.batch_size)
        self.settings = self._settings() if self.checkpoint else {}

    def run(self, progress: bool) -> Fit:
        """Trains to the end, or until interrupted."""
        self._resumed_at = time.perf_counter() - self.seconds
        self._rate = self.trainer.optimizer.param_groups[0]["lr"]
        with self.trainer.running(), self._signals_held():
            try:
                self._run_epochs(progress)
            except NonFiniteError as error:
                self.stopped = "non-finite"
                error.fit = self.result()
                raise
        if self.best:
            set_state(self.trainer.pair, self.best)
        else:
            self.trainer.update.swap_averages()
        self.trainer.pair.checked_kinds.clear()
        return self.result()

    def result(self) -> Fit:
        """The training so far."""
        history = {name: np.array(values) for name, values in self.history.items()}
        trainer, own = self.trainer, (self.seconds, self.stopped, self.warning)
        return Fit(trainer.pair, trainer.objective, history, self.epoch, trainer.steps, *own)

    @contextlib.contextmanager
    def _signals_held(self) -> Iterator[None]:
        """Holds back the signals after which training is to stop once a step is done, rather than at once.

        SIGTERM, so that a checkpoint is written before it ends the process. Ctrl-C where several processes train: all
        stop after the same step, or some would wait for the others forever.
        """
        self._interrupts: list[int] = []
        self._terminations: list[int] = []
        with contextlib.ExitStack() as stack:
            if self.checkpoint is not None and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
                self._terminations = stack.enter_context(interrupts_held(signal.SIGTERM))
            if self.processes.size > 1:
                self._interrupts = stack.enter_context(interrupts_held())
            yield

    @property
    def _signaled(self) -> bool:
        return bool(self._interrupts or self._terminations)

    def _run_epochs(self, progress: bool) -> None:
        try:
            with progress_bar(total=self.num_steps, initial=self.trainer.steps, unit="step", shown=progress) as bar:
                self._call_back()
                while not self.stopped:
                    self._run_epoch(bar)
        except KeyboardInterrupt:
            with interrupts_held():
                self._interrupts.clear()
                self.stopped = self.stopped or "interrupted"
                self._save()
            of = f" of {self.num_steps}" if self.num_steps else ""
            logger.warning("training interrupted after %d%s steps", self.trainer.steps, of)

    def _run_epoch(self, bar: tqdm) -> None:
        trainer = self.trainer
        if self.callbacks:
            trainer.prepared.forget()  # they may have changed the pair
            trainer.programs.doubt()
            if self._bound:
                self._bound.prepared.forget()
        self._steps.begin(self.epoch, len(self.sizes))
        while self._goes_on(bar):
            pass
        if self.sizes:
            self._end_epoch()

    def _goes_on(self, bar: tqdm) -> bool:
        """Takes steps until Ctrl-C, which has its effect between two of them; whether there are more in this epoch."""
        trainer = self.trainer
        programs, compile_seconds = trainer.programs, trainer.programs.seconds
        with interrupts_held() as interrupts:
            while trainer.steps != self.num_steps and not interrupts:
                trainer.update.interrupted = self._signaled
                if not (taken := self._steps.take(self._most())):
                    return False
                self.seconds = time.perf_counter() - self._resumed_at
                self._note(taken)
                if self.checkpoint and self.checkpoint.every and trainer.steps % self.checkpoint.every == 0:
                    self._save()
                if programs.seconds != compile_seconds:
                    bar.unpause()  # the forecast is of the steps to come
                    compile_seconds = programs.seconds
                if not bar.disable:
                    compiled = f", {programs.seconds:.1f} s of compiling" if programs.seconds else ""
                    bar.set_postfix_str(f"bound {taken[-1].bound:.3f}{compiled}", refresh=False)
                bar.update(len(taken))
                if trainer.update.interrupted:
                    raise KeyboardInterrupt
        return trainer.steps != self.num_steps

    def _note(self, taken: Taken) -> None:
        """Steps in the history, and where epochs are joined, each that they complete."""
        for step in taken:
            self.history["bound_per_step"].append(step.bound)
            self.sizes.append(step.num_points)
            self._rate = step.rate
            if self._steps.joined and len(self.sizes) == self.source.steps_per_epoch:
                self._note_epoch()
                self.stopped = self._judged()

    def _note_epoch(self, **measured: float) -> None:
        """The end of an epoch, with its entries of the history."""
        bounds = self.history["bound_per_step"][-len(self.sizes) :]
        bound = sum(map(operator.mul, bounds, self.sizes)) / sum(self.sizes)
        measured |= {"bound": bound, "learning_rate": self._rate, "seconds": self.seconds}
        for name, entry in measured.items():
            self.history[name].append(float(entry))
        self.epoch += 1
        self.cut_short = len(self.sizes) != self.source.steps_per_epoch
        self.sizes = []

    def _most(self) -> int:
        """How many steps may be taken before something else is to be done."""
        steps, every = self.trainer.steps, self.checkpoint and self.checkpoint.every
        left = MOST if self.num_steps is None else self.num_steps - steps
        return min(left, every - steps % every) if every else left

    def _end_epoch(self) -> None:
        """History, held-out bound, best state, checkpoint, callbacks, and whether to go on."""
        measured = {"held_out": self._bound(lambda: self._signaled)} if self._bound else {}
        with interrupts_held():
            self.seconds = time.perf_counter() - self._resumed_at
            self._note_epoch(**measured)
            if self.scheduler:
                self.scheduler.after_epoch(self.history)
            self._keep_best()
            self.stopped = self._judged()
            self.uncalled = bool(self.callbacks)
            self._save()
        self._call_back()

    def _call_back(self) -> None:
        """Calls the callbacks if they are due; until they are done, a run that goes on calls them first."""
        if self.uncalled:
            if self._called_back():
                self.stopped = "callback"
            with interrupts_held():
                self.uncalled = False
                self._save()

    def _called_back(self) -> bool:
        """Whether a callback wants to stop; with several processes, only process 0 calls them, and its pair counts."""
        wants = self.processes.first(self._calls_back)
        self.processes.copy_first([*self.trainer.pair.parameters(), *self.trainer.pair.buffers()])
        return wants

    def _calls_back(self) -> bool:
        try:
            randomness = own_randomness((self.trainer.seed, CALLBACKS, self.epoch), self.trainer.device)
            with users_own(), networks_unchanged(), randomness:
                for callback in self.callbacks:
                    callback(self.result())
        except StopIteration:
            return True
        return False

    def _keep_best(self) -> None:
        """Keeps the pair's state if it is the best so far, and is to be kept."""
        if self.held_out is not None and self.held_out.keep_best and self._epochs_since_best() == 0:
            with self.trainer.averaged():
                self.best = copied_state(self.trainer.pair)

    def _judged(self) -> str:
        """Why training is over after this epoch; empty if it is not."""
        if self.trainer.steps == self.num_steps or self.epoch == self.epochs:
            return "completed"
        patience = self.held_out and self.held_out.patience
        return "patience" if patience and self._epochs_since_best() >= patience else ""

    def _epochs_since_best(self) -> int:
        return self.epoch - 1 - int(np.argmax(np.nan_to_num(self.history["held_out"], nan=-math.inf)))

    def _save(self) -> None:
        """Writes the checkpoint. Where that fails training goes on, so that it is not lost, and the result says so."""
        if self.checkpoint is None:
            return
        try:
            store(self, self.checkpoint.path)
        except (OSError, ValueError) as error:
            if not self.warning:
                logger.warning("the checkpoint could not be written, training goes on: %s", error)
            self.warning = f"the checkpoint could not be written after {self.trainer.steps} steps: {error}"
        else:
            self.warning = ""

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            CheckpointError: the file is damaged, or from another run; nothing has been changed then.
        """
        if self.checkpoint is None or not self.processes.first(Path(self.checkpoint.path).exists):
            return
        restore(self, self.checkpoint.path)
        if self.stopped in ("patience", "callback"):
            logger.warning(
                "%s: this run was ended by %s after %d epochs, and is not trained further; to go on, give it more "
                "epochs, a larger patience, or callbacks that let it",
                self.checkpoint.path,
                self.stopped,
                self.epoch,
            )

    def _settings(self) -> dict[str, Any]:
        saved_state(self.trainer.pair)  # so that it refuses before the first step
        held_out = self.held_out and {"data": fingerprint(self.held_out.data), "keep_best": self.held_out.keep_best}
        return self.trainer.settings | plain(
            {
                "schedule": [self.schedule(i / 8) for i in range(8)] if self.schedule else None,
                "transform": describe(self.transform) if self.transform else None,
                "data": self.source.description,
                "steps_per_epoch": self.source.steps_per_epoch,
                "held_out": held_out,
                "batch_size": self.batch_size,
                **({"scheduler": describe(self.scheduler)} if self.scheduler else {}),
            }
        )

    def state(self) -> State:
        """What a checkpoint holds: the trainer's state, and this run's own."""
        state = self.trainer.state()
        state.tensors["best"] = self.best
        state.tensors["history"] = {name: torch.tensor(v, dtype=torch.float64) for name, v in self.history.items()}
        state.values["run"] = {name: getattr(self, name) for name in RUN}
        return state

    def set_state(self, state: State) -> None:
        """Goes on from a state whose settings match this run's; refuses one of another length."""
        best, history = self._checked(state)
        run = state.values["run"]
        self.trainer.set_state(state)
        self.best = {name: t.to(self.trainer.device) for name, t in best.items()}
        self.history = {name: t.tolist() for name, t in history.items()}
        self.epoch, self.sizes, self.cut_short = run["epoch"], run["sizes"], run["cut_short"]
        self.seconds, self.uncalled = run["seconds"], run["uncalled"]
        if self.scheduler:
            self.scheduler.replay(self.trainer.optimizer, self.trainer.steps, self.history)
        self.stopped = self._still_ended(run)

    def _still_ended(self, run: dict[str, Any]) -> str:
        """Why there is nothing left to do in a run that may have ended; empty if there is, as more is asked for."""
        unit = "num_steps" if self.num_steps and run["num_steps"] else "epochs"
        longer = (getattr(self, unit) or 0) > (run[unit] or 0)
        if run["stopped"] in ("", "interrupted") or longer:
            return ""
        self.stopped = run["stopped"]  # which the callbacks, asked again, may look at
        ended = self._judged()
        return ended or ("callback" if run["stopped"] == "callback" and self._called_back() else "")

    def _checked(self, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The best state and the history in a file, which is a run's that may go on here."""
        path = state.source
        require(path, state.tensors, {"best": dict, "history": dict})
        require(path, state.values, {"run": dict, "steps": int})
        run, best, history = state.values["run"], state.tensors["best"], state.tensors["history"]
        require(path, run, RUN)
        if best:
            check_layout(path, "best", best, layout(state_of(self.trainer.pair)))
            refuse_nan(path, {name: best[name] for name in self.trainer.update.parameters})
        lengths = {name: state.values["steps"] if name == "bound_per_step" else run["epoch"] for name in self.history}
        check_layout(path, "history", history, {name: f"float64[{length}]" for name, length in lengths.items()})
        self._check_length(run, state.values["steps"])
        return best, history

    def _check_length(self, run: dict[str, Any], done: int) -> None:
        """A run may go on to another length only where its past did not depend on it."""
        too_many = done > (self.num_steps or math.inf) or run["epoch"] > (self.epochs or math.inf)
        cut_short = run["stopped"] not in ("", "interrupted") and run["cut_short"]
        if too_many or (self.num_steps != run["num_steps"] and (self.schedule or cut_short)):
            found, expected = (
                f"{num_steps} steps" if num_steps else f"{epochs} epochs"
                for num_steps, epochs in ((run["num_steps"], run["epochs"]), (self.num_steps, self.epochs))
            )
            raise CheckpointError(
                f"checkpoint: found a run of {found}, with {run['epoch']} epochs and {done} steps done, expected one "
                f"of {expected}; another length is possible only without a schedule, if the run has not ended "
                "within an epoch and no more is done than asked for. Give the length it was written with, or "
                "use another file"
            )
