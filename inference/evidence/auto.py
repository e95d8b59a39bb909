"""The default: exact where possible, else importance weights, and AIS where these fail."""

from collections.abc import Mapping
from dataclasses import replace

from ppvae.inference.evidence.iwae import MOST_KHAT
from ppvae.inference.evidence.method import EvidenceMethod, Task, exactly
from ppvae.inference.runtime.records import Evidence
from ppvae.own_rows import rows_or_all
from ppvae.refusals import ContractError


class Auto(EvidenceMethod):
    """Each data point by the cheapest method that its diagnostics allow.

    Args:
        methods: the registry.
    """

    name = "auto"
    about = "exact where possible; else importance weights, and AIS for the data points whose k-hat is bad"
    trusted = "the method taken for the data point says so; `methods` and `reason` say which, and why"

    def __init__(self, methods: Mapping[str, EvidenceMethod]):
        self._methods = methods

    def run(self, task: Task) -> Evidence:
        if found := exactly(self._methods, task):
            return found
        weighted = self._methods["iwae"].run(task)
        bad = ~weighted.reliable
        if not bad.any():
            return replace(weighted, reason=f"iwae, as k-hat is at most {MOST_KHAT} for all data points")
        try:
            chains = self._chains(replace(task, batch=rows_or_all(task.pair, task.batch, bad)))
        except ContractError as error:
            return replace(weighted, reason=f"iwae, as annealing does not apply: {error}")
        return replace(
            weighted.with_rows(bad, chains),
            method=self.name,
            reason=f"{chains.method} for the {int(bad.sum())} of {len(bad)} data points whose k-hat is above "
            f"{MOST_KHAT}, iwae for the others",
            candidates={"iwae": weighted},
        )

    def _chains(self, task: Task) -> Evidence:
        """AIS from where the settings say, or from the prior where the guide is no place to start from."""
        try:
            return self._methods["ais"].run(task)
        except ContractError:
            from_prior = tuple(replace(settings, start="prior") for settings in task.annealing)
            return self._methods["ais from prior"].run(replace(task, annealing=from_prior))
