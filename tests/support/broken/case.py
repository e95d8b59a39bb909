"""What a broken pair is: a pair, its data, and the causes that a verdict must, or may, name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ppvae import Pair

FEATURES, TRAIN, TEST = 10, 1000, 50

Made = tuple[Pair, tuple[Any, Any]]


@dataclass(frozen=True)
class Broken:
    """A pair that is broken on purpose.

    Attributes:
        make: the pair, training data and test data, from torch's seed.
        main: causes of which any is right as the main one; empty for a healthy pair, where none is.
        also: causes that are there too, or that a verdict may call part of it.
    """

    make: Callable[[], Made]
    main: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def make_with(self, seed: int) -> Made:
        """The pair of a seed."""
        torch.manual_seed(seed)
        return self.make()

    def wrong(self, named: list[str]) -> str:
        """What is wrong with the causes that a verdict names, the main one first; empty where it is right."""
        false = [name for name in named if name not in (*self.main, *self.also)]
        if false:
            return f"names {', '.join(false)}"
        if self.main and (not named or named[0] not in self.main):
            return f"calls {named[0]} the main cause" if named else "names none"
        return ""


def split(x: Any) -> tuple[Any, Any]:
    """Training and test data."""
    return x[:TRAIN], x[TRAIN:]
