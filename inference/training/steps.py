"""The steps of an epoch: one by one, or several of a program's before their bounds are looked at.

To read a bound, Python waits for the step to end; on a GPU nothing runs while it then prepares the next one. So a
stretch of steps is launched first. If one of its bounds turns out not to be finite, all is put back as it was before
the stretch, and its steps are taken anew, one by one, up to the one to blame.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ppvae.batches import Batch
from ppvae.conversion import floating_converted
from ppvae.inference.training.feeding import Minibatch, Source
from ppvae.inference.training.schedulers import Scheduler
from ppvae.inference.training.step_programs import OtherBatchError
from ppvae.inference.training.trainer import Trainer

Taken: TypeAlias = list[tuple[float, int]]
"""Of each step, the mean bound and the number of data points."""

SECONDS = 0.1
"""Of a stretch: how long Ctrl-C may wait."""
MOST = 100
"""Steps of a stretch."""


@dataclass
class Steps:
    """Takes a run's steps, in the epoch that `begin` has named.

    Attributes:
        trainer: takes each of them.
        source: of the data points.
        transform: applied to each minibatch.
        scheduler: one of torch's, moved before each step.
    """

    trainer: Trainer
    source: Source
    transform: Callable[[Any], Any] | None
    scheduler: Scheduler | None

    def __post_init__(self) -> None:
        self._length, self._alone_until = 0, 0.0  # of the next stretch, and steps up to which there is none
        self._error: BaseException | None = None  # which ended a stretch, and is raised once its steps are told

    def begin(self, epoch: int, done: int) -> None:
        """Starts an epoch, of which so many steps are done."""
        self._epoch, self._done, self._length = epoch, done, max(self._length, 2)
        self._minibatches = self.source.minibatches(epoch, done)

    def take(self, most: int) -> Taken:
        """Takes at least one step, and not more than `most`; none if the epoch is over."""
        if self._error:
            error, self._error = self._error, None
            raise error
        taken = self._stretch(self._room(most)) or self._one()
        self._done += len(taken)
        return taken

    def _one(self) -> Taken:
        trainer = self.trainer
        with trainer.update.shared():
            minibatch = next(self._minibatches, None)
            if minibatch is None:
                if not self.source.agreed:
                    trainer.update.no_more_batches()
                return []
            if self.scheduler:
                self.scheduler.before_step(trainer.steps)
            trainer.update.whole = minibatch.whole
            num_points = minibatch.num_points
            bound = trainer.take_step(self._drawn(minibatch), minibatch.index, num_points, minibatch.weights)
        return [(bound, num_points)]

    def _room(self, most: int) -> int:
        """How many steps may be launched now."""
        steps = self.trainer.steps
        if steps < self._alone_until or (self.scheduler and self.scheduler.each_step):
            return 0
        whole = self.source.whole_steps - self._done
        return min(self._length, most, whole, self.trainer.programs.unseen(steps))

    def _stretch(self, num: int) -> Taken:
        """Launches so many steps, then reads their bounds; returns none where all are to be taken one by one."""
        if num < 2:
            return []
        trainer, start = self.trainer, time.perf_counter()
        steps, put_back = trainer.steps, trainer.update.snapshot()
        reports, num_points = [], self.source.batch_size or 0
        try:
            for minibatch in itertools.islice(self._minibatches, num):
                reports.append(trainer.launch_step(self._drawn(minibatch), num_points, minibatch.weights))
        except BaseException as error:  # the steps before it are taken all the same
            self._error = error
        found = torch.stack(reports).tolist() if reports else []
        if any(bad for _, bad in found):
            put_back()
            trainer.steps, self._alone_until = steps, steps + len(found)
            self._error, found = None, []
        elif isinstance(self._error, OtherBatchError):
            self._alone_until, self._error = math.inf, None  # there may be more of them
        self._length = min(MOST, int(SECONDS * num / (time.perf_counter() - start)))
        if len(found) < num:
            self._minibatches = self.source.minibatches(self._epoch, self._done + len(found))
        if self._error and not found:
            return self.take(1)
        return [(bound, num_points) for bound, _ in found]

    def _drawn(self, minibatch: Minibatch) -> Callable[[], Batch]:
        def draw() -> Batch:
            batch = minibatch.data
            if self.transform and len(minibatch.index):
                batch = self.transform(floating_converted(batch, self.trainer.pair))
            return self.trainer.converted(batch)

        return draw
