"""log p(x) by annealed importance sampling (AIS), from the guide or the prior to the posterior."""

import math
from collections.abc import Mapping

from torch import Tensor

from ppvae.inference.evidence.annealed_importance import AIS, run_chains, weigh
from ppvae.inference.evidence.method import EvidenceMethod, Halves, Task
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence

MOST_STD_ERROR = 0.5
"""Nats of standard error above which AIS is not to be trusted: its weights are too uneven."""


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
        found = run_chains(task.pair, task.batch, settings, weigh, task.progress)
        return self.record_of(settings, found["forward"], found)

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
        found = run_chains(task.pair, task.batch, settings, weigh, task.progress)
        first, second = found["forward"].chunk(2, dim=1)
        return self.record_of(settings, first, found), self.record_of(settings, second, found)

    def record_of(self, settings: AIS, log_weight: Tensor, found: Mapping[str, Tensor]) -> Evidence:
        """The record of AIS log weights, `[N, K]`, under the settings' name."""
        num = log_weight.shape[1]
        log_sum = log_weight.logsumexp(1)
        ess = (2 * log_sum - (2 * log_weight).logsumexp(1)).exp()
        result = finite(
            {
                "estimate": log_sum - math.log(num),
                "std_error": ((num / ess - 1).clamp(min=0) / (num - 1 or math.nan)).sqrt(),
                "ess": ess,
                "acceptance": found["acceptance"],
                "divergences": found["divergences"],
            }
        )
        return Evidence.of(settings.name, num, result, self.reliable(result), (self.limit,))

    def _own(self, task: Task) -> list[AIS]:
        """The settings with this method's start."""
        return [each for each in task.annealing or (self._default,) if each.start == self._default.start]
