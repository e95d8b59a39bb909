"""log p(x) by annealed importance sampling (AIS), from the guide or the prior to the posterior."""

import math
from collections.abc import Mapping

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from ppvae.batches import num_rows
from ppvae.inference.evidence.annealed_importance import AIS, run_chains, weigh
from ppvae.inference.evidence.method import EvidenceMethod, Halves, Task
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence

MOST_STD_ERROR = 0.5
"""Nats of standard error above which AIS is not to be trusted: its weights are too uneven."""

LEAST_LOG_WEIGHT = -1000.0
"""Of the largest, as far as errors tell them apart."""


def std_error(log_weight: Tensor) -> Tensor:
    """Of the log of the mean of K weights, by few of them; plus and minus 1.96 of it cover 95%.

    `sd(w) / (mean(w) sqrt(K))`, the delta method's, is too small for skewed weights when K is small, as the largest are
    seldom among them. Logs of AIS weights are nearly normal, and if they are exactly, `sd(w) / mean(w)` is
    `sqrt(exp(var(log w)) - 1)`: the larger of the two is taken. Where log w is normal its variance is the same under
    any power of w as a weight; with `w^(2/3)` chains that are stuck far below, and add nothing, do not count. The log
    of a mean of such weights varies no more than that of a single one, `sd(log w)`, by the Gaussian Poincare
    inequality, so neither does the error. The factor is that of Student's quantiles to the normal ones.

    Source: Chernoff 1981, Ann. Probab. 9(3), for the inequality.

    Args:
        log_weight: `[N, K]`.

    Returns:
        `[N]`, in nats; NaN for K = 1.

    Example:
        >>> log_w = torch.randn(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> std_error(log_w)
        tensor([0.4687], dtype=torch.float64)
    """
    num = log_weight.shape[1]
    if num == 1:
        return torch.full_like(log_weight[:, 0], math.nan)
    relative = log_weight - log_weight.amax(1, keepdim=True)
    w = relative.exp()
    by_weights = w.std(1) / w.mean(1) / math.sqrt(num)
    variance = _variance(relative.clamp(min=LEAST_LOG_WEIGHT), 2 / 3)
    by_logs = torch.minimum((variance.expm1() / num).sqrt(), variance.sqrt())
    student = stdtrit(num - 1, 0.975) / ndtri(0.975)
    return student * torch.maximum(by_weights, by_logs)


def _variance(log_w: Tensor, power: float) -> Tensor:
    """Of log w, `[N, K]`, under weights `w^power`, unbiased where all are the same; `[N]`."""
    share = (power * log_w).softmax(1)
    mean = (share * log_w).sum(1, keepdim=True)
    lost = share.square().sum(1)  # degrees of freedom, as a share
    return (share * (log_w - mean).square()).sum(1) / (1 - lost).clamp(min=torch.finfo(lost.dtype).eps)


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
