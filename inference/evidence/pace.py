"""How long annealing takes: a forecast soon after it starts, and an end to it when its time is spent."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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

TRIAL = 0.5
"""Seconds of calls whose cost is to be known."""

SHARE = 0.75
"""Of the time that is left, what a block of data points may be expected to take."""


class Pace:
    """Told of each transition, it moves the bar, and forecasts from the first few how long all of them take.

    Args:
        title: what runs, and on how many data points.
        total: transitions of this process, summed over data points.
        bar: to be moved.
        gpus: whose work is waited for when time is taken.
        most: seconds after which it ends in any case.
    """

    def __init__(self, title: str, total: int, bar: tqdm, gpus: Sequence[torch.device], most: float = math.inf):
        self._title, self._total, self._bar, self._gpus, self._most = title, total, bar, gpus, most
        self._calls = self._done = 0
        self._start = (0.0, 0)

    def __call__(self, num_points: int) -> None:
        """Before a transition of so many data points."""
        if self._calls == UNTIMED:
            self._start = now(self._gpus), self._done
        elif self._calls == UNTIMED + TIMED:
            start, before = self._start
            rate = (now(self._gpus) - start) / (self._done - before)
            self._say(min(rate * self._total, self._most))
        self._calls += 1
        self._done += num_points
        self._bar.update(num_points)

    def _say(self, seconds: float) -> None:
        self._bar.set_description(f"{self._title}, about {spoken(seconds)}", refresh=False)
        if self._bar.disable and seconds > LONG and processes().rank == 0:
            logger.warning("%s takes about %s", self._title, spoken(seconds))


@dataclass(frozen=True)
class Cost:
    """What blocks of data points take, on one process: seconds that any block takes, and those for each data point.

    Attributes:
        fixed: seconds of any block.
        each: further seconds for each data point.
        most: data points of the largest block.
    """

    fixed: float
    each: float
    most: int

    @classmethod
    def of(cls, one: float, all_: float, most: int) -> "Cost":
        """By the seconds of the smallest block, of one data point, and of the largest."""
        each = max(0.0, (all_ - one) / (most - 1)) if most > 1 else one
        return cls(max(0.0, one - each), each, most)

    def seconds(self, num_points: float) -> float:
        return self.fixed + self.each * num_points

    def points(self, seconds: float) -> int:
        """How many data points can be done in that time; zero or less if it is too short for any."""
        if seconds >= self.seconds(self.most):
            return self.most
        return math.floor((seconds - self.fixed) / self.each) if self.each else 0


def in_time(run: Callable[[Tensor], dict[str, Tensor]], num: int, cost: Cost, deadline: float) -> dict[str, Tensor]:
    """`run(index)` on blocks of N data points, in random order, until the deadline.

    Any block has a fixed cost, so each is as large as takes three quarters of the time that is left; the others allow
    for errors of the forecast, which is corrected by what blocks have taken. The first, of at least one data point, is
    run in any case. With several processes, which share each block, the first decides.

    Returns:
        What was found, in the order of the data points, and their `index`.
    """
    group = processes()
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    parts: list[dict[str, Tensor]] = []
    slower = 1.0
    while len(order):
        begun = clock()
        size = group.first(group.size * cost.points(SHARE * (deadline - begun) / slower))
        if parts and size < 1:
            break
        index, order = order[: max(1, size)], order[max(1, size) :]
        parts.append(run(index) | {"index": index})
        slower = (clock() - begun) / cost.seconds(len(index) / group.size)
    found: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    by_row = found["index"].argsort()
    return {name: t[by_row] for name, t in found.items()}


def seconds_left(deadline: float) -> float:
    """Until the deadline, the same in all processes; below zero after it."""
    return processes().first(deadline - clock())


def seconds_of(call: Callable[[], Any], gpus: Sequence[torch.device]) -> float:
    """What a call takes, in the mean over half a second, or over two calls."""
    start, calls = now(gpus), 0
    while (taken := now(gpus) - start) < TRIAL or calls < 2:
        call()
        calls += 1
    return taken / calls


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
