"""How long annealing takes: a forecast soon after it starts, and an end to it when its time is spent."""

import logging
import math
import time
from collections.abc import Callable, Sequence
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

SHARE = 0.25
"""Of the time that there is, what one block of data points may take."""


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


def in_time(
    run: Callable[[Tensor], dict[str, Tensor]], num: int, seconds_per_point: float, deadline: float
) -> dict[str, Tensor]:
    """`run(index)` on blocks of N data points, in random order, until the deadline.

    A block is as large as takes a quarter of the time, by the seconds for a data point, and is begun only if one as
    fast as the fastest so far would end in time; the first, of at least one data point, always is. With several
    processes, which share each block, the first keeps the time.

    Returns:
        What was found, in the order of the data points, and their `index`.
    """
    group, left = processes(), seconds_left(deadline)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    at_once = max(1, int(SHARE * left / group.first(seconds_per_point) * group.size)) if left > 0 else 1
    parts: list[dict[str, Tensor]] = []
    fastest = math.inf
    for index in order.split(at_once):
        begun = clock()
        if parts and group.first(begun + fastest - deadline) > 0:
            break
        parts.append(run(index) | {"index": index})
        fastest = min(fastest, clock() - begun)
    found: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    by_row = found["index"].argsort()
    return {name: t[by_row] for name, t in found.items()}


def seconds_left(deadline: float) -> float:
    """Until the deadline, the same in all processes; below zero after it."""
    return processes().first(deadline - clock())


def seconds_of(call: Callable[[], Any], gpus: Sequence[torch.device]) -> float:
    """What a call takes, after the first."""
    call()
    start = now(gpus)
    for _ in range(TIMED):
        call()
    return (now(gpus) - start) / TIMED


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
