"""Torch's learning-rate schedulers in `fit`."""

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ppvae.inference.training.optimizers import refuse_two_schedules
from ppvae.rules import Function
from ppvae.wording import listed, shown

EXAMPLE = "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10)"

RateSchedule = Annotated[
    Callable[[Any], Any],
    Function(f"a function of the fraction of steps done, or one that makes a torch scheduler, such as {EXAMPLE}"),
]

STEPWISE = (CyclicLR, OneCycleLR)
"""Those that torch's documentation steps after each batch; the others are stepped after each epoch."""


def makes_scheduler(schedule: Callable[..., Any] | None) -> bool:
    """Whether it is a torch scheduler's class or a `partial` of one, or a function whose argument is `optimizer`."""
    if schedule is None:
        return False
    try:
        return next(iter(inspect.signature(schedule).parameters), "") == "optimizer"
    except (TypeError, ValueError):  # a function of C
        return False


class Scheduler:
    """A torch scheduler that moves the learning rates of an optimizer's groups, and leaves the optimizer alone.

    What it keeps follows from the bounds of the past epochs, so a resumed run makes it anew and replays them.

    Args:
        make: what makes it, called with an optimizer.
        optimizer: whose rates are moved.

    Raises:
        TypeError: that makes no scheduler, or needs more arguments.
        ValueError: the optimizer lowers its rates itself.
    """

    def __init__(self, make: Callable[..., Any], optimizer: Optimizer):
        refuse_two_schedules(optimizer)
        self._make, self._rates = make, copy.deepcopy([group["lr"] for group in optimizer.param_groups])
        before = copy.deepcopy([_others(group) for group in optimizer.param_groups])
        self._start(optimizer)
        pairs = zip(before, optimizer.param_groups, strict=True)
        self.moved = sorted({name for old, group in pairs for name in old if old[name] != group[name]})
        """The settings besides the learning rate that it changes, such as momentum."""
        self.each_step = isinstance(self._scheduler, STEPWISE)

    def __repr__(self) -> str:
        return repr(self._make)

    def before_step(self, steps: int) -> None:
        """Moves the rates, after so many steps, if it is stepped between any two."""
        if self.each_step and steps:
            _step(self._scheduler)

    def after_epoch(self, history: Mapping[str, Sequence[float]]) -> None:
        """Moves the rates, if it is stepped after each epoch; one that waits for a plateau is told the last bound."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            bound = history.get("held_out", history["bound"])[-1]
            _step(self._scheduler, bound if self._scheduler.mode == "max" else -bound)
        elif not self.each_step:
            _step(self._scheduler)

    def replay(self, optimizer: Optimizer, steps: int, history: Mapping[str, Sequence[float]]) -> None:
        """Starts anew on an optimizer, and comes to where it was after so many steps with this history."""
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = copy.deepcopy(rate)  # which may be a tensor, that the scheduler writes to
            group.pop("initial_lr", None)
        self._start(optimizer)
        for step in range(steps):
            self.before_step(step)
        for epoch in range(len(history["bound"])):
            self.after_epoch({name: entries[: epoch + 1] for name, entries in history.items()})

    def _start(self, optimizer: Optimizer) -> None:
        own = copy.copy(optimizer)  # shares the groups, while the scheduler wraps its `step` and not the optimizer's
        try:
            found = self._make(own)
        except TypeError as error:
            raise TypeError(
                f"schedule: found {shown(self._make)}, which does not take an optimizer alone ({error}), expected one "
                f"that does, such as {EXAMPLE}"
            ) from error
        if not isinstance(found, LRScheduler):
            raise TypeError(
                f"schedule: found that {shown(self._make)} makes {shown(found)}, expected a torch scheduler, as its "
                f"argument is called optimizer; {EXAMPLE} makes one"
            )
        self._scheduler = found


def _others(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _step(scheduler: Any, *metrics: float) -> None:
    with warnings.catch_warnings():  # its own copy of the optimizer takes no steps
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        scheduler.step(*metrics)


def refuse_momentum(scheduler: Scheduler) -> None:
    """Refuses a scheduler whose changes a compiled step would not see."""
    if scheduler.moved:
        raise ValueError(
            f"schedule: found one that changes {listed(scheduler.moved)}, with steps that are compiled, which hold all "
            "but learning rates fixed; pass it cycle_momentum=False, or compile=False to ppvae.fit"
        )
