"""Objectives: `objective(pair, batch, step) -> (value, surrogate)`.

`value`, `[B]`, is the bound per data point in nats, higher is better: what is reported. `surrogate`, a scalar per data
point in the mean, is maximized: its gradient is the estimator. The two differ whenever training is not plain ascent on
the bound (a beta below one, free bits, estimators that leave out terms of mean zero).
"""

import math
from typing import Protocol

from torch import Tensor

from ppvae.batches import Batch
from ppvae.pair import Pair


class Objective(Protocol):
    """What `fit` maximizes."""

    def __call__(self, pair: Pair, batch: Batch, step: float = math.inf) -> tuple[Tensor, Tensor]:
        """The bound's value `[B]` and the surrogate, a scalar, at a step of training (infinity: schedules are over)."""
        ...


def with_penalty(objective: Objective, pair: Pair, batch: Batch, step: float) -> tuple[Tensor, Tensor]:
    """What a step of training calls: the objective, with the pair's own penalty taken off the surrogate."""
    value, surrogate = objective(pair, batch, step)
    return value, surrogate - pair.penalty()
