"""The program that takes a trainer's steps, where there is one: when it is made, and whether it still says the same."""

import logging
import math
import time

from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.objectives.protocol import Maximized
from ppvae.inference.training.compiled_step import CompiledStep
from ppvae.inference.training.update import Update
from ppvae.pair import Pair
from ppvae.progress import waiting

logger = logging.getLogger("ppvae")


class OtherBatchError(Exception):
    """A batch that the program is not for."""


class StepPrograms:
    """Compiled or recorded steps of a trainer, all for batches of one kind.

    The program is compared with the eager step when it is made, and again at each power of two: Python may have come to
    decide something else since. From a difference on, training goes on uncompiled, with a warning.

    Args:
        pair, objective, update: of the step.
        compiles: whether steps are compiled, from the second on: the first creates the optimizer's state.

    Attributes:
        size: of the batches that the program is for, in data points; that of the first batch, unless set.
        record_after: steps after which one is recorded, if they are not compiled.
        seconds: that compiling took.
    """

    def __init__(self, pair: Pair, objective: Maximized, update: Update, compiles: bool):
        self._of, self.compiles = (pair, objective, update), compiles
        self.size: int | None = None
        self.record_after, self.seconds = math.inf, 0.0
        self._step: CompiledStep | None = None
        self._compared_at, self._given_up = 0, False
        self._doubted = False  # whether the pair may have been changed since
        self._said_other = False  # that some batches are not of the compiled kind

    def for_step(
        self, number: int, batch: Batch, weights: Tensor | None, num_points: int, progress: bool
    ) -> CompiledStep | None:
        """The program for a step, if there is one for this batch; with `progress`, compiling shows."""
        if self._given_up or number < (1 if self.compiles else self.record_after) or num_points != self.size:
            return None
        if self._step is None:
            return self._made(number, batch, weights, progress)
        if not self._step.fits(batch):
            self._warn_of_others()
            return None
        return self._step if self._still_agrees(batch, weights, number) else None

    def unseen(self, number: int) -> int:
        """How many steps from this one on can be launched: up to the next comparison with the eager step."""
        if self._step is None or not self._step.updates or self._step.moved():
            return 0
        return 0 if self._doubted or _is_power_of_two(number) else (1 << number.bit_length()) - number

    def refuse_other(self, batch: Batch) -> None:
        """Refuses a batch that cannot be launched.

        Raises:
            OtherBatchError: the program is not for it.
        """
        if self._step is None or not self._step.fits(batch) or self._step.moved():
            raise OtherBatchError

    def launch(self, number: int, batch: Batch, weights: Tensor | None) -> Tensor:
        """Launches a step on a batch that the program is for; see `CompiledStep.launch`."""
        assert self._step is not None
        return self._step.launch(batch, weights, number)

    def forget(self) -> None:
        """Makes the program anew at the next step."""
        self._step = None

    def doubt(self) -> None:
        """Compares the program at the next step: users' code may have changed the pair."""
        self._doubted = True

    def _made(self, number: int, batch: Batch, weights: Tensor | None, progress: bool) -> CompiledStep | None:
        start, compiles = time.perf_counter(), self.compiles
        try:
            with waiting("compiling the step", progress and compiles):
                self._step, self._compared_at = CompiledStep(*self._of, batch, weights, not self.compiles), number
        except CannotCompileError as reason:
            level = logging.WARNING if self.compiles else logging.INFO
            logger.log(level, "training goes on uncompiled: %s", reason)
            self._give_up()
        finally:
            self.seconds = time.perf_counter() - start if compiles else 0.0
        return self._step

    def _still_agrees(self, batch: Batch, weights: Tensor | None, number: int) -> bool:
        assert self._step is not None
        if moved := self._step.moved():
            logger.warning(
                "training goes on uncompiled from step %d: %s: found that another tensor has taken its place, expected "
                "one that is changed in place, as by copy_ or fill_, as a program reads it where it was",
                number + 1,
                moved,
            )
            self._give_up()
            return False
        if not (self._doubted or _is_power_of_two(number)):
            return True
        try:
            self._step.compare(batch, weights, number)
        except CannotCompileError as reason:
            logger.warning(
                "training goes on uncompiled from step %d: %s The steps after step %d may have been taken with old "
                "values; to decide at each step, give compile=False.",
                number + 1,
                reason,
                self._compared_at + 1,
            )
            self._give_up()
            return False
        self._compared_at, self._doubted = number, False
        return True

    def _give_up(self) -> None:
        self._given_up, self._step = True, None

    def _warn_of_others(self) -> None:
        if self.compiles and not self._said_other:
            logger.warning(
                "only steps like step 2 are compiled: a batch has another shape or layout, or another value of an "
                "argument that is no data; pass a number that changes, such as an annealing factor, as "
                "torch.tensor(number)"
            )
            self._said_other = True


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
