"""Schedules: functions from the training step to a weight."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from ppvae.arguments import Count, Natural, checked


@checked
@dataclass(frozen=True)
class LinearWarmup:
    """A schedule for beta: zero for `delay` steps (reconstruction first), then rising linearly to one in `steps`.

    `beta(step) = clip((step - delay) / steps, 0, 1)`. Source: Bowman et al. 2016 (arXiv:1511.06349), Sønderby et al.
    2016 (arXiv:1602.02282).

    Example:
        >>> warmup = LinearWarmup(steps=100, delay=50)
        >>> warmup(0), warmup(100), warmup(float("inf"))
        (0.0, 0.5, 1.0)
    """

    steps: Count
    delay: Natural = 0

    def __call__(self, step: float) -> float:
        return min(max((step - self.delay) / self.steps, 0.0), 1.0)


def refuse_scheduled(name: str, value: Any, step: Any, allows: Callable[[Any], bool], expected: str) -> None:
    """Refuses what a schedule says at a step, or a setting is, unless it is a number that is allowed.

    The value of a tensor cannot be looked at while a step is compiled.

    Raises:
        ValueError: it is not.
    """
    if not (value.dim() == 0 if isinstance(value, Tensor) else isinstance(value, Real) and allows(value)):
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{name}: found {found} at step {step}, expected {expected}; change the schedule")
