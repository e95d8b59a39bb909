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

UNTIMED, TIMED = 2, 8
"""Of the first transitions, those that are not timed, as they may be compiling, and those that are."""

FIRST = 4
"""Data points of the first block, which tells how long the others take."""

SHARE = 0.75
"""Of the time that is left, what a block of data points may be expected to take."""


class Late(Exception):  # noqa: N818 (it is no error)
    """The time is spent."""


class Pace:
    """Told of each transition, it moves the bar, and forecasts from the first few how long all of them take.

    Args:
        title: what runs, and on how many data points.
        total: transitions of this process, summed over data points.
        bar: to be moved.
        gpus: whose work is waited for when time is taken.
        deadline: when it ends in any case, if there is one. A process that is alone then raises `Late`; others would
            wait for one that does.
    """

    def __init__(self, title: str, total: int, bar: tqdm, gpus: Sequence[torch.device], deadline: float | None = None):
        self._title, self._total, self._bar, self._gpus = title, total, bar, gpus
        self._deadline = math.inf if deadline is None else deadline
        self._calls = self._done = 0
        self._start = (0.0, 0)

    def __call__(self, num_points: int) -> None:
        """Before a transition of so many data points."""
        if self._calls == UNTIMED:
            self._start = now(self._gpus), self._done
        elif self._calls == UNTIMED + TIMED:
            start, before = self._start
            rate = (now(self._gpus) - start) / (self._done - before)
            self._say(min(rate * self._total, self._deadline - clock()))
        if clock() > self._deadline and processes().size == 1:
            raise Late
        self._calls += 1
        self._done += num_points
        self._bar.update(num_points)

    def _say(self, seconds: float) -> None:
        self._bar.set_description(f"{self._title}, about {spoken(seconds)}", refresh=False)
        if self._bar.disable and seconds > LONG and processes().rank == 0:
            logger.warning("%s takes about %s", self._title, spoken(seconds))


def in_time(run: Callable[[Tensor, bool], dict[str, Tensor]], num: int, deadline: float) -> dict[str, Tensor]:
    """`run(index, first)` on blocks of N data points, in random order, until the deadline.

    The first block is small. Each of the others is as large as takes three quarters of the time that is left, at the
    pace of the one before. With several processes, which share each block, the first decides.

    Returns:
        What was found, in the order of the data points, and their `index`; empty if not even the first was in time.
    """
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    parts: list[dict[str, Tensor]] = []
    size = FIRST
    while len(order) and size:
        index, order = order[:size], order[size:]
        begun = clock()
        try:
            parts.append(run(index, not parts) | {"index": index})
        except Late:
            break
        each = (clock() - begun) / len(index)
        size = max(0, processes().first(math.floor(SHARE * (deadline - clock()) / each)))
    if not parts:
        return {}
    by_row = torch.cat([part["index"] for part in parts]).argsort()
    return {name: torch.cat([part[name] for part in parts])[by_row] for name in parts[0]}


def seconds_left(deadline: float) -> float:
    """Until the deadline, the same in all processes; below zero after it."""
    return processes().first(deadline - clock())


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
