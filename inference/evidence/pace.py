"""How long annealing takes: a forecast soon after it starts, and an end to it when its time is spent."""

import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ppvae.inference.runtime.distributed import processes

logger = logging.getLogger("ppvae")
clock = time.monotonic

LONG = 30.0
"""Seconds above which a forecast is said even without a bar."""

UNTIMED, TIMED = 1, 4
"""Of the first transitions, those that are not timed, as they may be slow, and those that are."""

LATER = 10
"""Times as many transitions after which a forecast is made again, as the machine may have been busy at first."""

OFF = 2.0
"""The factor by which a forecast must be off to be corrected."""

SHARE = 0.8
"""Of the time that is left, what a block of data points may be expected to take."""

LESS = 1.25
"""The least factor by which a block that would take too long is made smaller."""


class Late(Exception):  # noqa: N818 (it is no error)
    """The time is spent."""


class TooLong(Exception):  # noqa: N818 (the same)
    """A block is expected to take more than its share of the time, by a factor."""

    def __init__(self, factor: float):
        super().__init__(factor)
        self.factor = factor


class Pace:
    """Told of each transition, it moves the bar, and forecasts from the first few how long all of them take.

    Args:
        title: what runs, and on how many data points.
        total: transitions of this process, summed over data points and chains.
        bar: to be moved.
        gpus: whose work is waited for when time is taken.
        deadline: when it ends in any case.

    Raises:
        TooLong: soon after the start, where the forecast exceeds 0.8 of the time until the deadline.
        Late: at the deadline.
    """

    def __init__(self, title: str, total: int, bar: tqdm, gpus: Sequence[torch.device], deadline: float = math.inf):
        self._title, self._total, self._bar, self._gpus, self._deadline = title, total, bar, gpus, deadline
        self._calls = self._done = 0
        self._start = (0.0, 0)
        self._forecast_at, self._forecast = UNTIMED + TIMED, 0.0

    def __call__(self, num: int) -> None:
        """Before so many transitions at once."""
        if self._calls == UNTIMED:
            self._start = now(self._gpus), self._done
        elif self._calls == self._forecast_at:
            start, before = self._start
            seconds = (now(self._gpus) - start) / (self._done - before) * self._total
            factor = seconds / (SHARE * (self._deadline - start))
            if not self._forecast and factor > 1:
                raise TooLong(factor)
            if not self._forecast or not 1 / OFF < seconds / self._forecast < OFF:
                self._say(seconds)
                self._forecast = seconds
            self._forecast_at *= LATER
        if clock() > self._deadline:
            raise Late
        self._calls += 1
        self._done += num
        self._bar.update(num)

    def _say(self, seconds: float) -> None:
        self._bar.set_description(f"{self._title}, about {spoken(seconds)}", refresh=False)
        if self._bar.disable and seconds > LONG and processes().rank == 0:
            logger.warning("%s takes about %s", self._title, spoken(seconds))


def in_time(run: Callable[[Tensor], dict[str, Tensor]], num: int, deadline: float) -> dict[str, Tensor]:
    """`run(index)` on blocks of N data points, in random order, until the deadline.

    As a larger block takes less time for each data point, the first is of all of them; one that raises `TooLong` is
    tried again with fewer.

    Returns:
        What was found, in the order of the data points, and their `index`; empty if nothing was done in time.
    """
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    parts: list[dict[str, Tensor]] = []
    size = num
    while size and clock() < deadline:
        try:
            parts.append(run(order[:size]) | {"index": order[:size]})
        except Late:
            break
        except TooLong as expected:
            size = math.floor(size / max(LESS, expected.factor))
        else:
            order = order[size:]
            size = len(order)
    if not parts:
        return {}
    by_row = torch.cat([part["index"] for part in parts]).argsort()
    return {name: torch.cat([part[name] for part in parts])[by_row] for name in parts[0]}


def now(gpus: Sequence[torch.device]) -> float:
    """The time at which all work begun so far is done."""
    for gpu in gpus:
        torch.cuda.synchronize(gpu)
    return clock()


def spoken(seconds: float) -> str:
    """In words, to two figures or so.

    Example:
        >>> spoken(41.3), spoken(200.0), spoken(9000.0)
        ('41 seconds', '3.3 minutes', '2.5 hours')
    """
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} seconds"
