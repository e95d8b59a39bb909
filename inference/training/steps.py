"""The steps of a run: one by one, or several of a program's before their bounds are looked at.

To read a bound, Python waits for the step to end; on a GPU nothing runs while it then prepares the next one. So a
stretch of steps is launched first. If one of its bounds turns out not to be finite, or one cannot be launched, all is
put back as it was before the stretch, and its steps are taken anew, one by one, up to the one to blame.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch

from ppvae.batches import Batch, Transform, transformed
from ppvae.inference.training.feeding import Minibatch, Source
from ppvae.inference.training.schedulers import Scheduler
from ppvae.inference.training.step_programs import OtherBatchError
from ppvae.inference.training.trainer import Trainer


class Step(NamedTuple):
    """A step that was taken."""

    bound: float
    """The batch's mean."""
    num_points: int
    rate: float
    """The learning rate, of the first group of parameters."""


Taken: TypeAlias = list[Step]
SECONDS = 0.1
"""Of a stretch: how long Ctrl-C may wait."""
MOST = 100
"""Steps of a stretch."""


@dataclass
class Steps:
    """Takes a run's steps, from the epoch on that `begin` has named.

    Attributes:
        trainer: takes each of them.
        source: of the data points.
        transform: applied to each minibatch.
        scheduler: one of torch's, moved before each step.
        joined: whether one epoch follows another in a stretch, as all steps are alike and nothing is done between them.
    """

    trainer: Trainer
    source: Source
    transform: Transform | None
    scheduler: Scheduler | None
    joined: bool

    def __post_init__(self) -> None:
        self._length, self._alone_until = 0, 0.0  # of the next stretch, and steps up to which there is none
        self._error: BaseException | None = None  # which ended a stretch, and is raised once its steps are told

    def begin(self, epoch: int, done: int) -> None:
        """Starts an epoch, of which so many steps are done."""
        self._epoch, self._done, self._length = epoch, done, max(self._length, 2)
        self._minibatches = self._following(0)

    def take(self, most: int) -> Taken:
        """Takes at least one step, and not more than `most`; none if the epoch is over and the next one not joined."""
        if self._error:
            error, self._error = self._error, None
            raise error
        taken = self._stretch(self._room(most)) or self._one()
        self._done += len(taken)
        return taken

    def _following(self, num: int) -> Iterator[Minibatch]:
        """The minibatches after those of the steps that are done, and of so many more."""
        done = self._done + num
        if not self.joined:
            return self.source.minibatches(self._epoch, done)
        assert self.source.steps_per_epoch is not None
        epochs, done = divmod(done, self.source.steps_per_epoch)
        later = itertools.count(self._epoch + epochs + 1)
        rest = self.source.minibatches(self._epoch + epochs, done)
        return itertools.chain(rest, itertools.chain.from_iterable(self.source.minibatches(e, 0) for e in later))

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
            bound = trainer.take_step(lambda: self._batch(minibatch), minibatch.index, num_points, minibatch.weights)
        return [Step(bound, num_points, self._rate())]

    def _room(self, most: int) -> int:
        """How many steps may be launched now."""
        steps = self.trainer.steps
        if steps < self._alone_until or (self.scheduler and self.scheduler.each_step):
            return 0
        whole = most if self.joined else self.source.whole_steps - self._done
        return min(self._length, most, whole, self.trainer.programs.unseen(steps))

    def _stretch(self, num: int) -> Taken:
        """Launches so many steps, then reads their bounds; returns none where all are to be taken one by one."""
        if num < 2:
            return []
        trainer, start = self.trainer, time.perf_counter()
        steps, put_back = trainer.steps, trainer.update.snapshot()
        reports, rates, num_points = [], [], self.source.batch_size or 0
        try:
            with trainer.threads(num_points):
                for minibatch in itertools.islice(self._minibatches, num):
                    batch = self._ready(minibatch)
                    rates.append(self._rate())
                    reports.append(trainer.launch_step(batch, minibatch.weights))
        except BaseException as error:  # the steps before it are taken all the same
            self._error = error
        found = torch.stack(reports).tolist() if reports else []
        if any(bad for _, bad in found) or len(found) < len(rates):  # the last of them could not be launched
            put_back()
            trainer.steps, self._alone_until = steps, steps + len(rates)
            self._error, found = None, []
        elif isinstance(self._error, OtherBatchError):
            self._alone_until, self._error = math.inf, None  # there may be more of them
        self._length = min(MOST, int(SECONDS * num / (time.perf_counter() - start)))
        if len(found) < num:
            self._minibatches = self._following(len(found))
        if self._error and not found:
            return self.take(1)
        return [Step(bound, num_points, rate) for (bound, _), rate in zip(found, rates, strict=False)]

    def _rate(self) -> float:
        return self.trainer.optimizer.param_groups[0]["lr"]

    def _ready(self, minibatch: Minibatch) -> Batch:
        """The batch of a step to launch; if that goes wrong, the state is as before the step.

        Raises:
            OtherBatchError: the program is not for it.
        """
        trainer = self.trainer
        if not self.transform:  # all are of one kind
            trainer.set_rates()
            return minibatch.data
        with trainer.undone_on_error():
            trainer.set_rates()
            batch = self._batch(minibatch)
            trainer.programs.refuse_other(batch)
        return batch

    def _batch(self, minibatch: Minibatch) -> Batch:
        if self.transform and len(minibatch.index):
            return self.trainer.converted(transformed(self.transform, minibatch.data))
        return minibatch.data
