"""Schedules: functions from the training step to a weight."""

from dataclasses import dataclass

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
