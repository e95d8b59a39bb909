"""What is said of things that are refused."""

import math
from typing import Any

from torch.distributions import Independent

from ppvae.splitting import SplitDistribution


class ContractError(ValueError):
    """A pair, or what it was given, breaks the contract."""


def at_least_one(name: str, value: int) -> None:
    """Refuses counts (of particles, samples, rows) below one, or not whole."""
    if value < 1 or value != int(value):
        raise ValueError(f"{name}: found {value}, expected at least 1" + ", a whole number" * (value >= 1))


def positive_seconds(name: str, value: Any) -> None:
    """Refuses a bound in seconds that is no positive finite number; None is no bound."""
    if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"{name}: found {value!r}, expected a positive number of seconds, or None for no bound")


def family(fn: Any) -> str:
    """The name of a distribution, without the declaration that dimensions are event dimensions."""
    return family(fn.base_dist) if isinstance(fn, Independent | SplitDistribution) else type(fn).__name__
