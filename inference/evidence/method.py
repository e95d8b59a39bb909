"""The interface of a method that measures log p(x): how it runs, and where its estimates are to be trusted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.evidence import pace
from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.runtime.records import NOT_REACHED, Evidence
from ppvae.pair import Pair

Halves = tuple[Evidence, Evidence]
"""Two independent records of one method, with equally many draws."""


@dataclass(frozen=True)
class Task:
    """What is to be measured, and with which settings.

    Attributes:
        pair: the model and guide, in eval mode (inside `measuring`).
        batch: N data points.
        num_particles: importance weights per data point.
        annealing: settings of AIS, as the caller gave them; empty if not given.
        progress: whether to show bars.
        deadline: when to end, by `pace.clock`; None if that is when all is measured.
    """

    pair: Pair
    batch: Batch
    num_particles: int
    annealing: tuple[AIS, ...] = ()
    progress: bool = False
    deadline: float | None = None

    def with_share(self, share: float) -> "Task":
        """The same, to be done in a share of the time that is left."""
        if self.deadline is None:
            return self
        return replace(self, deadline=pace.clock() + share * (self.deadline - pace.clock()))

    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self.deadline is not None and pace.clock() >= self.deadline


class EvidenceMethod(ABC):
    """A way to measure log p(x), listed in `ppvae.inference.evidence.registry`.

    Attributes:
        name: what `log_evidence(method=...)`, records, tables and reasons call it.
        about: how it measures, for the docs.
        trusted: where its estimates are to be trusted, for the docs.
        limit: where they are not, for warnings; empty if they always are.
        exact: whether it gives log p(x) itself, not a bound. "auto" and "best" try such methods first.
        several_annealings: whether it takes more than one setting of AIS.
        bounded: whether it has an estimate for each data point even where a deadline leaves no time to anneal it.
    """

    name: str
    about: str
    trusted: str
    limit: str = ""
    exact: ClassVar[bool] = False
    several_annealings: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    @abstractmethod
    def run(self, task: Task) -> Evidence:
        """The measurement.

        Raises:
            NotImplementedError: the method is exact, and does not know log p(x) for such a pair.
            ppvae.ContractError: it does not apply to such a pair.
        """

    def reliable(self, found: Mapping[str, Tensor]) -> Tensor:
        """Where estimate and standard error are to be trusted, `[N]`.

        Args:
            found: what was measured, by the names of `Evidence`'s tensors, `[N]` each; and `num_particles`, a number,
                how many draws for each data point it was measured from.
        """
        return torch.ones_like(found["estimate"], dtype=torch.bool)

    def is_candidate(self, task: Task) -> bool:
        """Whether "best" chooses among this method's estimates and those of others."""
        return False

    def num_gradients(self, task: Task) -> int:
        """How many gradients it takes for each data point, by which "best" shares out the time."""
        return 0

    def halves(self, task: Task) -> Halves:
        """Two independent records with half the draws each, which "best" needs from its candidates."""
        half = replace(task, num_particles=max(1, task.num_particles // 2))
        return self.run(half), self.run(half)

    def record(self, num_particles: int, found: Mapping[str, Tensor]) -> Evidence:
        """The record of what was found, with this method's judgment of each data point."""
        limits = (self.limit,) if self.limit else ()
        reliable = self.reliable({**found, "num_particles": torch.tensor(num_particles)})
        return Evidence.of(self.name, num_particles, found, reliable, limits)


def unreached(record: Evidence) -> Evidence:
    """The record as what stands for data points that there was no time to anneal: not to be trusted."""
    return replace(record, reliable=torch.zeros_like(record.reliable), limits=(*record.limits, NOT_REACHED))


def exactly(methods: Mapping[str, EvidenceMethod], task: Task) -> Evidence | None:
    """log p(x) by the first exact method that knows it for this pair; None if none does."""
    for method in methods.values():
        if method.exact:
            try:
                return method.run(task)
            except NotImplementedError:
                continue
    return None
