"""What `fit` is given to train on, checked: data in memory, or an iterable of batches."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.batches import Batch, Transform, as_batch, naming, num_rows, rows, transformed
from ppvae.conversion import floating_type, floating_types, refuse_lost, to_pair
from ppvae.inference.objectives.protocol import Maximized, as_objective
from ppvae.inference.runtime.isolation import denormals_flushed, own_randomness
from ppvae.inference.training.data_weights import data_weights
from ppvae.inference.training.feeding import Shuffled, Source, Stream, placed
from ppvae.inference.training.one_row import refuse_one_row
from ppvae.inference.training.trainer import CHECK, ORDER, Trainer
from ppvae.mode import mode, settled_if_it_passes
from ppvae.own_rows import refuse_other_rows, refuse_parts
from ppvae.pair import Pair
from ppvae.progress import Bar, progress_bar
from ppvae.sources import is_stream


@dataclass(frozen=True)
class Intake:
    """What is known of the data before there is a trainer.

    Attributes:
        data: a batch of all data points, or an iterable of batches.
        weights: of the data points, of mean one.
        batch_size: data points per step, of data in memory.
        drop_last: whether an epoch's last batch is left out where it is smaller.
        streams: whether the data are an iterable.
    """

    data: Any
    weights: Tensor | None
    batch_size: int
    drop_last: bool
    streams: bool

    @staticmethod
    def of(data: Any, weights: Any, batch_size: int, drop_last: bool) -> "Intake":
        """Data as `fit` takes them.

        Raises:
            TypeError, ValueError: bad data or weights, or settings that only data in memory have.
        """
        if is_stream(data):
            given = {"drop_last": drop_last or None, "weights": weights}
            if named := [name for name, value in given.items() if value is not None]:
                raise ValueError(
                    f"{', '.join(named)}: found given with an iterable of batches, expected only with data in memory; "
                    "a DataLoader has a drop_last of its own, and may draw its data by their weights"
                )
            return Intake(data, None, batch_size, False, True)
        batch = as_batch(data)
        if drop_last and num_rows(batch) < batch_size:
            raise ValueError(
                f"batch_size: found {batch_size} with drop_last=True and {num_rows(batch)} data points, expected no "
                "more than there are, as nothing would be left to train on"
            )
        own = None if weights is None else data_weights(weights, num_rows(batch))
        return Intake(batch, own, batch_size, drop_last, False)

    def refuse_persistent_workers(self) -> None:
        """Refuses a DataLoader whose batches cannot be drawn again, as its workers' generators are set only once.

        Raises:
            ValueError: its workers live on from epoch to epoch.
        """
        if getattr(self.data, "persistent_workers", False):
            raise ValueError(
                "data: found a DataLoader with persistent_workers=True and a checkpoint, expected workers that start "
                "anew in each epoch, as what a worker draws in a later one is not kept in a file; pass it "
                "persistent_workers=False"
            )

    def num_steps(self, epochs: int | None, steps: int | None, schedule: object) -> int | None:
        """How many steps there will be; None where the data do not say.

        Raises:
            ValueError: a schedule needs the number; or the data can be read once, for several epochs.
        """
        if self.streams and epochs is not None and epochs > 1 and isinstance(self.data, Iterator):
            raise ValueError(
                f"data: found a {type(self.data).__name__}, which can be read once only, for {epochs} epochs, expected "
                "an iterable that starts anew; pass a DataLoader, or an object whose __iter__ makes a new iterator, or "
                "epochs=1"
            )
        per_epoch = self._steps_per_epoch()
        if steps is None and per_epoch is None and schedule is not None:
            raise ValueError(
                "schedule: found given with epochs of an iterable without a length, expected a known number of steps; "
                "pass steps= in place of epochs="
            )
        return steps if steps is not None or per_epoch is None else per_epoch * (epochs or 0)

    def _steps_per_epoch(self) -> int | None:
        if not self.streams:
            parts = num_rows(self.data) / self.batch_size
            return math.floor(parts) if self.drop_last else math.ceil(parts)
        try:
            return len(self.data)
        except TypeError:  # a DataLoader has a length only where its data set has one
            return None

    def source(self, trainer: Trainer, transform: Transform | None) -> Source:
        """Where the steps of a trainer get their data points, once these are checked; of an iterable the first batch.

        Raises:
            ppvae.ContractError: the pair breaks the contract.
            ValueError: a data point outside the model's support.
        """
        pair, seed, steps_per_epoch = trainer.pair, (trainer.seed, ORDER), self._steps_per_epoch()
        types = partial(floating_types, pair) if transform else trainer.converted.types
        if self.streams:

            def check(batch: Batch, place: int) -> None:
                refuse_other_rows(pair, batch)
                check_data(trainer, f"data, batch {place}", batch, transform, num_rows(batch), contract=place == 0)

            stream = Stream(self.data, steps_per_epoch, types, check, seed, trainer.device, trainer.processes)
            stream.start()
            return stream
        refuse_other_rows(pair, self.data)
        refuse_parts(pair, self.batch_size, trainer.processes.size)
        batch = placed(self.data, trainer.device)
        check_data(trainer, "data", batch, transform, self.batch_size)
        alone = trainer.processes.size == 1
        if alone and not self.drop_last and num_rows(batch) % self.batch_size == 1 % self.batch_size:
            _check_one_row(trainer, batch, transform)
        weights = None if self.weights is None else self.weights.to(trainer.device, floating_type(trainer.pair))
        size = self.batch_size
        return Shuffled(batch, types, weights, size, steps_per_epoch or 0, seed, trainer.device, trainer.processes)


def _check_one_row(trainer: Trainer, data: Batch, transform: Transform | None) -> None:
    """Refuses an epoch's last batch of one row where the pair cannot be trained on it."""
    with denormals_flushed(), own_randomness((trainer.seed, CHECK), trainer.device):
        point = to_pair(rows(data, slice(1)), trainer.pair)
        point = trainer.converted(transformed(transform, point))
        refuse_one_row(trainer.pair, trainer.objective, point)


def check_data(
    trainer: Trainer, name: str, data: Batch, transform: Transform | None, batch_size: int, contract: bool = True
) -> None:
    """Refuses a pair that breaks the contract, and the first data point that its model cannot have generated.

    And data whose differences the pair's precision does not hold.
    """

    def chunk(start: int, size: int) -> Batch:
        points = to_pair(rows(data, slice(start, start + size)), trainer.pair)
        return trainer.converted(transformed(transform, points))

    refuse_lost(name, data, floating_types(trainer.pair, data) if transform else trainer.converted.types(data))
    randomness = own_randomness((trainer.seed, CHECK), trainer.device)
    evaluation, settled = mode(trainer.pair, training=False), settled_if_it_passes(trainer.pair)
    with denormals_flushed(), randomness, evaluation, settled, pyro.validation_enabled(True):
        if contract:
            with nullcontext() if name == "data" else naming(name):
                trainer.check(chunk(0, batch_size))
        num = num_rows(data)
        with progress_bar(
            shown=trainer.progress, total=num, desc=f"checking {name}", unit="point", delay=1, leave=False
        ) as bar:
            _check_support(trainer.pair, trainer.objective, name, chunk, num, batch_size, bar)


def _check_support(
    pair: Pair,
    objective: Maximized,
    name: str,
    chunk: Callable[[int, int], Batch],
    num_points: int,
    batch_size: int,
    bar: Bar,
) -> None:
    """Refuses the first data point that the model cannot have generated."""
    size = 4 * batch_size  # without gradients there is room for more
    for start in range(0, num_points, size):
        points = chunk(start, size)
        if (reason := _refusal(pair, objective, points)) is None:
            bar.update(num_rows(points))
            continue
        for row in range(num_rows(points) if pair.own_rows is None else 0):
            if (why := _refusal(pair, objective, rows(points, slice(row, row + 1)))) is not None:
                raise ValueError(
                    f"{name}: found data point {start + row} outside the model's support ({why}), expected one that "
                    "the likelihood can produce; check its range and type, or choose another likelihood"
                )
        raise ValueError(
            f"{name}: found a log weight that is not finite among data points {start} to {start + size} ({reason})"
        )


@torch.no_grad()
def _refusal(pair: Pair, objective: Maximized, points: Batch) -> str | None:
    """Why the pair has no finite log weight for these data points; None if it has one."""
    try:
        log_w = as_objective(objective).probe(pair, points)
    except ValueError as error:
        return str(error).splitlines()[0]
    return None if log_w.isfinite().all() else "its log weight is not finite"
