"""Causes that keep an ELBO low, and when a measured line is significant enough to be called one."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ppvae.inference.runtime.records import Mean, Measurement

LEAST = 0.05
"""Nats below which nothing is called a cause."""

SIGNIFICANT = 2.0
"""Monte Carlo errors within which a line is not told apart from zero, or from another line."""


@dataclass(frozen=True)
class Cause:
    """Something that keeps the ELBO low.

    Attributes:
        name: in a word or two: "correlation", "training", "collapse".
        nats: what it costs, in nats per data point; NaN where that cannot be known.
        std_error: of that, over data points: how it would vary with other data.
        monte_carlo_error: of that, on these data: whether it is there at all.
        says: the experiment, and what it found.
        remedy: what to try.
        per_point: what it costs each data point, `[N]`, where that is known.
        forecast: what the remedy gained where it was tried.
    """

    name: str
    nats: float
    std_error: float
    monte_carlo_error: float
    says: str
    remedy: str
    per_point: Tensor | None = None
    forecast: Mean | None = None


Says = Callable[[float], str]
"""What the experiment found, in a sentence, from nats per data point."""


def is_significant(line: Measurement) -> bool:
    """Whether a line is more than small, and than its Monte Carlo error leaves in doubt."""
    mean = line.mean()
    return LEAST <= mean.estimate >= SIGNIFICANT * mean.monte_carlo_error  # never by one draw, whose error is NaN


def significant(name: str, line: Measurement, says: Says, remedy: str, forecast: Mean | None = None) -> list[Cause]:
    """The cause that a line stands for; none if it is small, or within its Monte Carlo error of zero.

    How much a line varies over the data points does not matter: what a few of them cost is a cost.
    """
    mean = line.mean()
    if not is_significant(line):
        return []
    said = says(mean.estimate) + _where(line)
    return [Cause(name, mean.estimate, mean.error, mean.monte_carlo_error, said, remedy, line.estimate, forecast)]


def _where(line: Measurement) -> str:
    """In how few data points half of what a line costs lies, where there are several."""
    if len(line.estimate) == 1:
        return ""
    sums = _without_noise(line).clamp(min=0).sort(descending=True).values.cumsum(0)
    return f" Half of it lies in {int((sums < sums[-1] / 2).sum()) + 1} of the {len(sums)} data points."


def _without_noise(line: Measurement) -> Tensor:
    """What a line costs each data point, drawn toward the mean until its variance is what Monte Carlo errors leave.

    Else a cost that all data points share would seem to lie in those where noise happens to be high.
    """
    mean, variance = line.estimate.mean(), line.estimate.var()
    signal = (variance - line.std_error.square().mean()).clamp(min=0)
    return mean + (line.estimate - mean) * (signal / variance).nan_to_num().sqrt()
