"""The programs that take a trainer's steps: when they are made, and whether they still say the same."""

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass

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


REST_AFTER = 100
"""Steps of another size that take about as long as recording one."""


@dataclass
class _Program:
    """A program, and the number of the step at which it was last compared with the eager one."""

    step: CompiledStep
    compared_at: int


class StepPrograms:
    """Compiled or recorded steps of a trainer, for batches of one kind; and recorded ones for an epoch's rest.

    A program is compared with the eager step when it is made, and again at each power of two: Python may have come to
    decide something else since. From a difference on, training goes on uncompiled, with a warning.

    Args:
        pair, objective, update: of the step.
        compiles: whether steps are compiled, from the second on: the first creates the optimizer's state.

    Attributes:
        size: of the batches that the program is for, in data points; that of the first batch, unless set.
        record_after: steps after which one is recorded, if they are not compiled.
        records_rest: whether steps of one other size are recorded, such as that of each epoch's last batch, once there
            were many; only where recorded steps are the eager ones to the last bit.
        seconds: that compiling took.
    """

    def __init__(self, pair: Pair, objective: Maximized, update: Update, compiles: bool):
        self._of, self.compiles = (pair, objective, update), compiles
        self.size: int | None = None
        self.record_after, self.records_rest, self.seconds = math.inf, False, 0.0
        self._programs: dict[int | None, _Program] = {}  # by size
        self._others: Counter[int] = Counter()  # steps of other sizes
        self._given_up = False
        self._said_other = False  # that some batches are not of the compiled kind

    def for_step(
        self, number: int, batch: Batch, weights: Tensor | None, num_points: int, progress: bool
    ) -> CompiledStep | None:
        """The program for a step, if there is one for this batch; with `progress`, compiling shows."""
        if self._given_up:
            return None
        if (program := self._programs.get(num_points)) is None:
            return self._made(number, batch, weights, num_points, progress) if self._due(number, num_points) else None
        if not program.step.fits(batch):
            self._warn_of_others()
            return None
        return program.step if self._still_agrees(program, batch, weights, number) else None

    def unseen(self, number: int) -> int:
        """How many steps from this one on can be launched: up to the next comparison with the eager step."""
        program = self._programs.get(self.size)
        if program is None or not program.step.updates or program.step.moved() or _is_unsure(program, number):
            return 0
        return (1 << number.bit_length()) - number

    def refuse_other(self, batch: Batch) -> None:
        """Refuses a batch that cannot be launched.

        Raises:
            OtherBatchError: the program is not for it.
        """
        program = self._programs.get(self.size)
        if program is None or not program.step.fits(batch) or program.step.moved():
            raise OtherBatchError

    def launch(self, number: int, batch: Batch, weights: Tensor | None) -> Tensor:
        """Launches a step on a batch that the program is for; see `CompiledStep.launch`."""
        return self._programs[self.size].step.launch(batch, weights, number)

    def forget(self) -> None:
        """Makes the programs anew at the next steps."""
        self._programs.clear()

    def doubt(self) -> None:
        """Compares each program at the next step: users' code may have changed the pair."""
        for program in self._programs.values():
            program.compared_at = 0

    def _due(self, number: int, num_points: int) -> bool:
        """Whether a program for batches of that size is to be made."""
        if num_points == self.size:
            return number >= (1 if self.compiles else self.record_after)
        self._others[num_points] += 1
        return self.records_rest and len(self._programs) == 1 and self._others[num_points] > REST_AFTER

    def _made(
        self, number: int, batch: Batch, weights: Tensor | None, num_points: int, progress: bool
    ) -> CompiledStep | None:
        start, compiles = time.perf_counter(), self.compiles and num_points == self.size
        try:
            with waiting("compiling the step", progress and compiles):
                step = CompiledStep(*self._of, batch, weights, not compiles)
        except CannotCompileError as reason:
            logger.log(logging.WARNING if compiles else logging.INFO, "training goes on uncompiled: %s", reason)
            if num_points == self.size:
                self._give_up()
            self.records_rest = False
            return None
        finally:
            self.seconds += time.perf_counter() - start if compiles else 0.0
        self._programs[num_points] = _Program(step, number)
        return step

    def _still_agrees(self, program: _Program, batch: Batch, weights: Tensor | None, number: int) -> bool:
        if moved := program.step.moved():
            logger.warning(
                "training goes on uncompiled from step %d: %s: found that another tensor has taken its place, expected "
                "one that is changed in place, as by copy_ or fill_, as a program reads it where it was",
                number + 1,
                moved,
            )
            self._give_up()
            return False
        if not _is_unsure(program, number):
            return True
        try:
            program.step.compare(batch, weights, number)
        except CannotCompileError as reason:
            logger.warning(
                "training goes on uncompiled from step %d: %s The steps after step %d may have been taken with old "
                "values; to decide at each step, give compile=False.",
                number + 1,
                reason,
                program.compared_at + 1,
            )
            self._give_up()
            return False
        program.compared_at = number
        return True

    def _give_up(self) -> None:
        self._given_up = True
        self._programs.clear()

    def _warn_of_others(self) -> None:
        if self.compiles and not self._said_other:
            logger.warning(
                "only steps like step 2 are compiled: a batch has another shape or layout, or another value of an "
                "argument that is no data; pass a number that changes, such as an annealing factor, as "
                "torch.tensor(number)"
            )
            self._said_other = True


def _is_unsure(program: _Program, number: int) -> bool:
    """Whether a power of two has been reached since the program was compared."""
    return number.bit_length() > program.compared_at.bit_length()
