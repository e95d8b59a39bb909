"""An objective, prepared for the pair that it is evaluated on over and over."""

from torch import nn

from ppvae.batches import Batch
from ppvae.inference.objectives.protocol import Maximized, Objective, as_objective
from ppvae.pair import Pair


class Prepared:
    """The objective for a batch, prepared once, and again when one of the pair's modules is replaced.

    Args:
        objective: what is maximized.
        pair: the model and guide.
    """

    def __init__(self, objective: Maximized, pair: Pair):
        self._objective, self._pair = as_objective(objective), pair
        self._modules: list[nn.Module] = []
        self._found: Objective | None = None

    def __call__(self, batch: Batch) -> Objective:
        modules = list(self._pair.modules())
        if self._found is None or [id(m) for m in modules] != [id(m) for m in self._modules]:
            self._found, self._modules = self._objective.prepared(self._pair, batch), modules
        return self._found

    def forget(self) -> None:
        """Prepares it anew at the next call: more than parameters and modules may have changed."""
        self._found = None
