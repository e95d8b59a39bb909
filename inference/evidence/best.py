"""The best of all available bounds, for each data point."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from ppvae.inference.evidence.larger_bound import larger_bound, pooled
from ppvae.inference.evidence.method import EvidenceMethod, Halves, Task, exactly, unreached
from ppvae.inference.runtime.records import Evidence
from ppvae.refusals import ContractError


class Best(EvidenceMethod):
    """Exact where possible, else the best bound among all candidates of the registry; see `larger_bound`.

    Args:
        methods: the registry.
    """

    name = "best"
    about = (
        "exact where possible; else importance weights, AIS from both starts, and, if the pair declares its steps in "
        "time, a particle filter: the most precise of them, or one that is larger by two joint standard errors. As "
        "the largest of noisy bounds would be too large, each half of the draws is taken from the method that the "
        "other half chooses, and the average has the mean p(x)"
    )
    trusted = "the methods taken for the data point say so"
    several_annealings = True
    bounded = True

    def __init__(self, methods: Mapping[str, EvidenceMethod]):
        self._methods = methods

    def run(self, task: Task) -> Evidence:
        if found := exactly(self._methods, task):
            return found
        candidates: dict[str, Halves] = {}
        refused = ""
        waiting = {name: method for name, method in self._methods.items() if method.is_candidate(task)}
        costs = {name: method.num_gradients(task) for name, method in waiting.items()}
        for name, method in waiting.items():
            left = sum(costs.values())
            try:
                candidates[name] = method.halves(task.with_share(costs.pop(name) / max(1, left)))
            except ContractError as error:
                refused = f"{name} does not apply: {error}"
        if not candidates:
            raise ContractError(
                f"method='best': found no method for {type(task.pair).__name__} ({refused}), expected one that "
                "applies; do what the reason asks for"
            )
        if len(candidates) == 1:
            ((name, halves),) = candidates.items()
            return replace(pooled(halves, self._methods), reason=f"{name}, as {refused or 'there is no other method'}")
        best = self._in_time(candidates)
        return replace(best, reason=f"{best.reason}; {refused}") if refused else best

    def _in_time(self, candidates: Mapping[str, Halves]) -> Evidence:
        """The larger bound where all candidates have one; elsewhere, for want of time, of those that have ended."""
        by_name = {name: torch.stack([half.estimate for half in halves]) for name, halves in candidates.items()}
        reached = torch.cat(list(by_name.values())).isfinite().all(0)
        if reached.all():
            return larger_bound(candidates, self._methods)
        whole = {name: pooled(halves, self._methods) for name, halves in candidates.items()}
        ended = {name: halves for name, halves in candidates.items() if by_name[name].isfinite().all()}
        names = list(ended) or list(candidates)[:1]
        rest = unreached(larger_bound(ended, self._methods) if len(names) > 1 else whole[names[0]])
        stand_in = " or ".join(names)
        of_all = f"in the time there was, AIS reached {int(reached.sum())} of {len(reached)} data points"
        found, reason = rest, f"{of_all}; {stand_in} stands for all"
        if reached.any():
            both = {name: (first.rows(reached), second.rows(reached)) for name, (first, second) in candidates.items()}
            best = larger_bound(both, self._methods)
            found = rest.with_rows(reached, best)
            reason = f"{of_all}, and {stand_in} stands for the rest. Of those: {best.reason}"
        return replace(found, method=self.name, reason=reason, candidates=whole)
