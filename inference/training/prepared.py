"""An objective, prepared for the pair that it is evaluated on over and over."""

from typing import Any

from torch import nn

from ppvae.batches import Batch, entries, is_rows
from ppvae.inference.objectives.protocol import Maximized, Objective, as_objective
from ppvae.pair import Pair

MOST = 16
"""Whole numbers up to this are told apart."""


class Prepared:
    """The objective for a batch, prepared once for each kind, and again when one of the pair's modules is replaced.

    Args:
        objective: what is maximized.
        pair: the model and guide.
    """

    def __init__(self, objective: Maximized, pair: Pair):
        self._objective, self._pair = as_objective(objective), pair
        self._modules: list[nn.Module] = []
        self._found: dict[Any, Objective] = {}

    def __call__(self, batch: Batch) -> Objective:
        modules = list(self._pair.modules())
        if [id(m) for m in modules] != [id(m) for m in self._modules]:
            self._found, self._modules = {}, modules
        kind = tuple((name, _kind(value)) for name, value in entries(batch).items())
        if kind not in self._found:
            self._found[kind] = self._objective.prepared(self._pair, batch)
        return self._found[kind]

    def forget(self) -> None:
        """Prepares it anew at the next call: more than parameters and modules may have changed."""
        self._found = {}


def _kind(entry: Any) -> Any:
    """What a model may branch on: whether there are data, and arguments that are none; of numbers few.

    Those are small whole numbers, as how many layers there are, and whether a factor is zero or one. Of others, which
    a run may take by the thousand, as it anneals or counts, only the type is told.
    """
    told = isinstance(entry, bool | str | None) or (isinstance(entry, int | float) and entry in range(MOST + 1))
    return type(entry), entry if told else None, is_rows(entry)
