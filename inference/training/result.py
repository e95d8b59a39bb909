"""The record of a run of training."""

from dataclasses import dataclass

import numpy as np

from ppvae.arguments import Natural, NonNegative, checked
from ppvae.inference.objectives.protocol import Maximized
from ppvae.inference.runtime.checkpoint import describe
from ppvae.pair import Pair
from ppvae.presentation import present
from ppvae.wording import counted


@checked
@dataclass(repr=False)
class Fit:
    """The result of training.

    Attributes:
        pair: the trained pair.
        objective: what was maximized.
        history: arrays. Per epoch: `bound` (mean value of the objective over the epoch's steps) and, if asked for,
            `held_out`, both in nats per data point; `learning_rate` (of its last step); `seconds` (since the start; a
            tenth of one may be shared by several epochs). Per step: `bound_per_step`.
        epochs: how many were done, including a last one cut short by `steps`.
        steps: how many were done.
        seconds: how long they took.
        stopped: why training ended: "completed", "patience", "callback", "interrupted" or "non-finite"; empty while
            it runs.
        warning: what a reader must know, such as that the checkpoint could not be written; empty if nothing.
    """

    pair: Pair
    objective: Maximized
    history: dict[str, np.ndarray]
    epochs: Natural
    steps: Natural
    seconds: NonNegative
    stopped: str
    warning: str = ""

    def __repr__(self) -> str:
        last = "".join(
            f", {name} {self.history[key][-1]:.3f}"
            for key, name in (("bound", "bound"), ("held_out", "held out"))
            if len(self.history.get(key, ()))
        )
        warning = f"; {self.warning}" if self.warning else ""
        return (
            f"Fit({type(self.pair).__name__} by {describe(self.objective)}: {self.stopped or 'running'} after "
            f"{counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')}, {self.seconds:.1f} s{last}{warning})"
        )

    def _repr_html_(self) -> str:
        return present("notebook", self)
