"""Causes that keep an ELBO low, and when a measured line is significant enough to be called one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ppvae.inference.runtime.records import Measurement

LEAST = 0.05
"""Nats below which nothing is called a cause."""

SIGNIFICANT = 2.0
"""Standard errors within which a line is not told apart from zero, or from another line."""


@dataclass(frozen=True)
class Cause:
    """Something that keeps the ELBO low.

    Attributes:
        name: in a word or two: "correlation", "training", "collapse".
        nats: what it costs, in nats per data point; NaN where that cannot be known.
        std_error: of that, over data points.
        says: the experiment, and what it found.
        remedy: what to try.
        per_point: what it costs each data point, `[N]`, where that is known.
    """

    name: str
    nats: float
    std_error: float
    says: str
    remedy: str
    per_point: Tensor | None = None


Says = Callable[[float], str]
"""What the experiment found, in a sentence, from nats per data point."""


def significant(name: str, line: Measurement, says: Says, remedy: str) -> list[Cause]:
    """The cause that a line stands for; none if it is small, or within its error of zero."""
    mean = line.mean()
    error = mean.monte_carlo_error if math.isnan(mean.std_error) else mean.std_error
    if mean.estimate < max(LEAST, SIGNIFICANT * error):
        return []
    return [Cause(name, mean.estimate, error, says(mean.estimate), remedy, line.estimate)]
