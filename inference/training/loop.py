"""The training loop behind `ppvae.fit`: its settings, and its state after a whole number of steps."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm.auto import tqdm

from ppvae.batches import Batch, num_rows, rows, tensors
from ppvae.inference.compiling.programs import CannotCompileError
from ppvae.inference.objectives.protocol import Objective, as_objective, with_penalty
from ppvae.inference.runtime.distributed import Processes
from ppvae.inference.runtime.isolation import (
    derived_seed,
    interrupts_held,
    own_randomness,
    random_state,
    set_random_state,
)
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.inference.training.feeding import feed
from ppvae.inference.training.nonfinite import NonFiniteError, explain
from ppvae.inference.training.resuming import describe, restore, settings_of, store
from ppvae.inference.training.update import Update
from ppvae.mode import mode
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

CHECK, STEPS, ORDER, HELD_OUT = range(4)  # streams of random numbers: one for each use, so that none disturbs another


@dataclass(repr=False)
class Fit:
    """What training did.

    Attributes:
        pair: the trained pair.
        objective: what was maximized.
        history: arrays. Per epoch: `bound` (mean value of the objective over the epoch's steps) and, if asked for,
            `held_out`, both in nats per data point; `learning_rate` (of its last step); `seconds` (since the start).
            Per step: `bound_per_step`.
        epochs: how many were done, a last one cut short included.
        steps: how many were done.
        seconds: how long they took.
        stopped: why training ended: "completed", "patience", "callback", "interrupted" or "non-finite"; empty while
            it runs.
    """

    pair: Pair
    objective: Objective
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
    """One run of training. The arguments of `fit` come first, then the state, which is what a checkpoint holds."""

    pair: Pair
    data: Batch
    objective: Objective
    optimizer: Optimizer
    num_steps: int
    batch_size: int
    seed: int
    device: torch.device
    schedule: Callable[[float], float] | None
    transform: Callable[[Any], Any] | None
    held_out: Batch | None
    patience: int | None
    keep_best: bool
    checkpoint: Path | None
    checkpoint_every: int | None
    callbacks: Sequence[Callable[[Fit], None]]
    compile: bool
    clip_norm: float | None
    ema: float | None
    autocast: torch.dtype | None
    processes: Processes

    step: int = 0
    epoch: int = 0
    stopped: str = ""
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ["bound", "learning_rate", "seconds", "bound_per_step"] + ["held_out"] * (self.held_out is not None)
        self.history = {name: [] for name in names}
        parameters = {name: p for name, p in self.pair.named_parameters() if p.requires_grad}
        self.buffers = list(self.pair.buffers())
        self.processes.copy_first([*self.pair.parameters(), *self.buffers])
        self.update = Update(self.optimizer, parameters, self.buffers, self.clip_norm, self.ema, self.processes)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps_per_epoch = math.ceil(num_rows(self.data) / self.batch_size)
        self.settings = settings_of(self) if self.checkpoint else {}
        self._feed = feed(self.data, self.device)
        self._compiled: CompiledStep | None = None
        self._prepared: Objective | None = None
        self._note = ""

    def run(self, progress: bool) -> Fit:
        """Trains to the end, or until interrupted; the random generators are the caller's to set."""
        self._resumed_at = time.perf_counter() - self.seconds
        held: contextlib.AbstractContextManager[list[bool]] = contextlib.nullcontext([])
        if self.processes.size > 1:
            held = interrupts_held()  # all stop after the same step, or some would wait for the others for ever
        with held as self._signals:
            try:
                with tqdm(total=self.num_steps, initial=self.step, unit="step", disable=not progress) as bar:
                    while not self.stopped:
                        self._run_epoch(bar)
            except KeyboardInterrupt:
                with interrupts_held():
                    self._signals.clear()
                    self.stopped = self.stopped or "interrupted"
                    self._save()
                logger.warning("training interrupted after %d of %d steps", self.step, self.num_steps)
            except NonFiniteError as error:
                self.stopped = "non-finite"
                error.fit = self.result()
                raise
        if self.best:
            self.pair.load_state_dict(self.best)
        else:
            self.update.swap_averages()
        return self.result()

    def result(self) -> Fit:
        """The training so far."""
        history = {name: np.array(values) for name, values in self.history.items()}
        return Fit(self.pair, self.objective, history, self.epoch, self.step, self.seconds, self.stopped)

    def _run_epoch(self, bar: tqdm) -> None:
        order = torch.randperm(
            num_rows(self.data), generator=torch.Generator().manual_seed(derived_seed(self.seed, ORDER, self.epoch))
        ).to(next(iter(tensors(self.data).values())).device)
        self._prepared = None  # as a callback may have changed the pair
        first = self.epoch * self.steps_per_epoch
        last = min(first + self.steps_per_epoch, self.num_steps)
        while self.step < last:
            start = (self.step - first) * self.batch_size
            end = start + self.batch_size
            self.update.interrupted = bool(self._signals)
            with interrupts_held():
                self._take_step(order[start:end], order[end : end + self.batch_size])
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self._save()
            bar.set_postfix_str(f"bound {self.history['bound_per_step'][-1]:.3f}{self._note}", refresh=False)
            bar.update()
            if self.update.interrupted:
                raise KeyboardInterrupt
        self._end_epoch(first)

    def _take_step(self, index: Tensor, following: Tensor) -> None:
        """One update, by the data points at `index`; if anything goes wrong, the state is that before the step."""
        own = self.processes.share(index)
        batch = self._feed(own, self.processes.share(following))
        randomness, buffers = random_state(self.device), [b.clone() for b in self.buffers]
        if self.schedule:
            factor = self.schedule(self.step / self.num_steps)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
        try:
            if self.transform and len(own):
                batch = self.transform(batch)
            transformed = random_state(self.device)
            program, share = self._program(batch, len(index)), len(own) / len(index)
            bound = program(batch, self.step, share, buffers) if program else None
            if bound is None:
                set_random_state(transformed, self.device)
                bound = self._update(batch, share, own, buffers, transformed)
        except BaseException:
            set_random_state(randomness, self.device)
            for buffer, before in zip(self.buffers, buffers, strict=True):
                buffer.copy_(before)
            self.optimizer.zero_grad()
            raise
        self.step += 1
        self.history["bound_per_step"].append(bound)
        self.seconds = time.perf_counter() - self._resumed_at

    def _update(
        self, batch: Batch, share: float, index: Tensor, buffers: list[Tensor], randomness: dict[str, Tensor]
    ) -> float:
        """The step, operation by operation; the batch's mean bound."""
        parameters = self.update.parameters
        gradients: list[Tensor | None] = [None] * len(parameters)
        value = torch.zeros(1, device=self.device)
        if share:
            self._prepared = self._prepared or as_objective(self.objective).prepared(self.pair, batch)
            value, surrogate = with_penalty(self._prepared, self.pair, batch, self.step)
            gradients = list(torch.autograd.grad(surrogate.neg(), list(parameters.values()), allow_unused=True))
        bound = self.update(value.detach().mean(), gradients, self.step, share, buffers)
        if bound is None:
            set_random_state(randomness, self.device)
            named = dict(zip(parameters, gradients, strict=True))
            raise NonFiniteError(explain(lambda: self.objective(self.pair, batch, self.step), named, index))
        return bound

    def _program(self, batch: Batch, num_points: int) -> CompiledStep | None:
        """The compiled step, where there is one for this batch.

        The first step of all is not compiled, as it makes the optimizer's state, nor are smaller batches.
        """
        if not self.compile or num_points < self.batch_size or self.step == 0:
            return None
        if self._compiled is None:
            start = time.perf_counter()
            try:
                self._compiled = CompiledStep(self.pair, self.objective, self.update, batch)
            except CannotCompileError as reason:
                logger.warning("training goes on uncompiled: %s", reason)
                self.compile = False
                return None
            self._note = f", compiled in {time.perf_counter() - start:.1f} s"
        return self._compiled if self._compiled.fits(batch) else None

    def _end_epoch(self, first: int) -> None:
        """History, held-out bound, best state, checkpoint, callbacks, and whether to go on."""
        bounds = self.history["bound_per_step"][first:]
        starts = np.arange(len(bounds)) * self.batch_size
        row = {
            "bound": np.average(bounds, weights=np.minimum(self.batch_size, num_rows(self.data) - starts)),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.held_out is not None:
            row["held_out"] = self._held_out_bound(self.held_out)
        with interrupts_held():
            row["seconds"] = self.seconds = time.perf_counter() - self._resumed_at
            for name, entry in row.items():
                self.history[name].append(float(entry))
            self.epoch += 1
            self._judge()
            self._save()
        if self.processes.first(self.processes.rank == 0 and self._call_back()):
            self.stopped = "callback"
            self._save()

    def _call_back(self) -> bool:
        """Whether a callback wants to stop; with several processes, the first one's are called."""
        try:
            for callback in self.callbacks:
                callback(self.result())
        except StopIteration:
            return True
        return False

    def _judge(self) -> None:
        """Keeps the state if it is the best so far, and says whether training is over."""
        if self.held_out is not None:
            best = int(np.argmax(np.nan_to_num(self.history["held_out"], nan=-math.inf)))
            since = self.epoch - 1 - best
            if self.keep_best and since == 0:
                with self._averages_in_place():
                    self.best = {name: t.detach().clone() for name, t in self.pair.state_dict().items()}
            if self.patience and since >= self.patience:
                self.stopped = "patience"
        if self.step == self.num_steps:
            self.stopped = "completed"

    @torch.no_grad()
    def _held_out_bound(self, held_out: Batch) -> float:
        """Mean value of the objective; the same draws at each epoch, so that only the parameters differ."""
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        own = self.processes.share(torch.arange(num_rows(held_out), device=self.device))
        seed = (self.seed, HELD_OUT, self.processes.rank)
        with own_randomness(seed, self.device), mode(self.pair, training=False), self._averages_in_place():
            for index in own.split(self.batch_size):
                with interrupts_held():
                    if len(index):
                        total += self.objective(self.pair, rows(held_out, index))[0].sum()
        return self.processes.sum(total).item() / num_rows(held_out)

    @contextlib.contextmanager
    def _averages_in_place(self) -> Iterator[None]:
        """The averages, if there are any, as the pair's parameters."""
        self.update.swap_averages()
        try:
            yield
        finally:
            self.update.swap_averages()

    def _save(self) -> None:
        if self.checkpoint is not None:
            store(self, self.settings, self.checkpoint)

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            CheckpointError: the file is damaged, or of another run; nothing has been changed then.
        """
        if self.checkpoint is not None and self.processes.first(self.checkpoint.exists()):
            restore(self, self.settings, self.checkpoint)
