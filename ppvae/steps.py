"""A pair whose latents come one after another in time, step by step, as particle filters run it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Conditional = Callable[[int, Tensor | None], Any]
"""`(t, z_{t-1}) -> distribution of z_t`; z_{t-1} is `[*, B, *event]`, and None at the first step, t = 0."""


@dataclass(frozen=True)
class Steps:
    """The factors of `p(x, z) = prod_t p(z_t | z_{t-1}) p(x_t | z_t)` for one batch, from a pair's `time_steps`.

    What is the same for all steps, such as an encoder's run over the sequence, is computed there, once. A step that is
    not there for a row, past its length, is masked: it adds zero to each log probability.

    Attributes:
        num: T.
        prior: `p(z_t | z_{t-1})`.
        guide: `q(z_t | z_{t-1}, x)`, which may look at all of x.
        log_likelihood: `(t, z_t) -> log p(x_t | z_t)`, `[*, B]`.
    """

    num: int
    prior: Conditional
    guide: Conditional
    log_likelihood: Callable[[int, Tensor], Tensor]
