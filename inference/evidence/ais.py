"""log p(x) by annealed importance sampling (AIS), from the guide or the prior to the posterior."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ppvae.batches import num_rows
from ppvae.inference.evidence.annealed_importance import AIS, run_chains, weigh
from ppvae.inference.evidence.few_weights import MOST_STD_ERROR, std_error
from ppvae.inference.evidence.method import EvidenceMethod, Halves, Task
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence


class AnnealedImportanceSampling(EvidenceMethod):
    """The log of the mean AIS weight; see `ppvae.AIS`.

    Args:
        start: where AIS starts if the task has no settings: "guide" or "prior".
    """

    trusted = f"the standard error is at most {MOST_STD_ERROR} nats"
    limit = f"AIS standard error > {MOST_STD_ERROR}"

    def __init__(self, start: str):
        self._default = AIS(start=start)
        self.name = self._default.name
        self.about = f"annealed importance sampling by Hamiltonian Monte Carlo, from the {start} to the posterior"

    def settings(self, task: Task) -> AIS:
        """Those of the task, or the defaults."""
        return task.annealing[0] if task.annealing else self._default

    def run(self, task: Task) -> Evidence:
        settings = self.settings(task)
        return self._records(task, settings, 1)[0]

    def reliable(self, found: Mapping[str, Tensor]) -> Tensor:
        return found["std_error"] <= MOST_STD_ERROR

    def is_candidate(self, task: Task) -> bool:
        return bool(self._own(task))

    def halves(self, task: Task) -> Halves:
        """The records of either half of one run's chains.

        Raises:
            ValueError: an odd number of chains, or several settings with this start.
        """
        settings, *others = self._own(task)
        if others:
            raise ValueError(
                f"annealing: found {1 + len(others)} settings that start from the {settings.start}, expected one for "
                "each start"
            )
        if settings.num_chains % 2:
            raise ValueError(
                f"num_chains: found {settings.num_chains}, expected an even number, to be split into halves"
            )
        first, second = self._records(task, settings, 2)
        return first, second

    def num_gradients(self, task: Task) -> int:
        return sum(each.num_chains * each.num_leapfrog * each.num_transitions for each in self._own(task))

    def record_of(self, settings: AIS, log_weight: Tensor, found: Mapping[str, Tensor]) -> Evidence:
        """The record of AIS log weights, `[N, K]`, under the settings' name."""
        num = log_weight.shape[1]
        log_sum = log_weight.logsumexp(1)
        result = finite(
            {
                "estimate": log_sum - math.log(num),
                "std_error": std_error(log_weight),
                "ess": (2 * log_sum - (2 * log_weight).logsumexp(1)).exp(),
                "acceptance": found["acceptance"],
                "divergences": found["divergences"],
            }
        )
        return Evidence.of(settings.name, num, result, self.reliable(result), (self.limit,))

    def _records(self, task: Task, settings: AIS, num: int) -> list[Evidence]:
        """Of so many equal parts of the chains; data points that are not reached in time are NaN, and unreliable."""
        found = run_chains(task.pair, task.batch, settings, weigh, task.progress, deadline=task.deadline)
        parts = found["forward"].chunk(num, dim=1) if found else ()
        records = [self.record_of(settings, part, found) for part in parts]
        if task.deadline is None:
            return records
        reached = torch.zeros(num_rows(task.batch), dtype=torch.bool)
        nothing = torch.full(reached.shape, math.nan, dtype=torch.float64)
        empty = {"estimate": nothing, "std_error": nothing}
        unknown = Evidence.of(settings.name, settings.num_chains // num, empty, reached, (self.limit,))
        if not records:
            return [unknown] * num
        return [unknown.with_rows(reached.index_fill(0, found["index"], True), record) for record in records]

    def _own(self, task: Task) -> list[AIS]:
        """The settings with this method's start."""
        return [each for each in task.annealing or (self._default,) if each.start == self._default.start]
