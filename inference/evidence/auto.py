"""The default: exact where possible, else importance weights, and AIS where these fail or are found to fall short."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.evidence.iwae import MOST_KHAT
from ppvae.inference.evidence.larger_bound import shortfall
from ppvae.inference.evidence.method import EvidenceMethod, Task, exactly
from ppvae.inference.runtime.records import Evidence
from ppvae.own_rows import rows_or_all
from ppvae.refusals import ContractError

AUDITED, AUDIT = 32, AIS(num_chains=8, num_temperatures=50)
"""How many of the data points that k-hat accepts are annealed as well, and how, at most."""


class Audit(NamedTuple):
    """What annealing says of importance weights that k-hat accepts."""

    num_points: int
    shortfall: float
    """Nats by which the weights fall short, in the mean; zero where that is no more than noise."""


class Auto(EvidenceMethod):
    """Each data point by the cheapest method that its diagnostics allow.

    A guide narrower than the posterior seldom draws latents whose weights are large; where it has drawn none, weights,
    standard error and k-hat all look fine. So what k-hat accepts is audited: some of it is annealed as well.

    Args:
        methods: the registry.
    """

    name = "auto"
    about = (
        "exact where possible; else importance weights, and AIS for the data points whose k-hat is bad. A few of the "
        "others are annealed too, and if their importance weights are found to fall short, all are"
    )
    trusted = "the method taken for the data point says so; `methods` and `reason` say which, and why"

    def __init__(self, methods: Mapping[str, EvidenceMethod]):
        self._methods = methods

    def run(self, task: Task) -> Evidence:
        if found := exactly(self._methods, task):
            return found
        weighted = self._methods["iwae"].run(task)
        try:
            audit = self._audit(task, weighted)
            bad = ~weighted.reliable | bool(audit.shortfall)
            if not bad.any():
                return replace(weighted, reason=f"iwae, as {_accepted(audit)}")
            chains = self._chains(replace(task, batch=rows_or_all(task.pair, task.batch, bad)))
        except ContractError as error:
            return replace(weighted, reason=f"iwae, as annealing does not apply: {error}")
        return replace(
            weighted.with_rows(bad, chains),
            method=self.name,
            reason=_mixed(chains.method, bad, audit),
            candidates={"iwae": weighted},
        )

    def _audit(self, task: Task, weighted: Evidence) -> Audit:
        """Anneals some of the data points that k-hat accepts, the same at each call and in each process."""
        accepted = weighted.reliable.nonzero().flatten()
        chosen = accepted[torch.randperm(len(accepted), generator=torch.Generator().manual_seed(0))[:AUDITED]]
        if not len(chosen):
            return Audit(0, 0.0)
        given = task.annealing[0] if task.annealing else AUDIT
        num_temperatures = min(given.num_temperatures, AUDIT.num_temperatures)
        light = replace(given, num_chains=AUDIT.num_chains, num_temperatures=num_temperatures, checkpoint=None)
        index = torch.zeros_like(weighted.reliable).index_fill(0, chosen, True)
        chains = self._chains(
            replace(task, batch=rows_or_all(task.pair, task.batch, index), annealing=(light,), progress=False)
        )
        return Audit(len(chosen), shortfall(weighted, weighted.with_rows(index, chains), index))

    def _chains(self, task: Task) -> Evidence:
        """AIS from where the settings say, or from the prior where the guide is no place to start from."""
        try:
            return self._methods["ais"].run(task)
        except ContractError:
            from_prior = tuple(replace(settings, start="prior") for settings in task.annealing)
            return self._methods["ais from prior"].run(replace(task, annealing=from_prior))


def _accepted(audit: Audit) -> str:
    return f"k-hat is at most {MOST_KHAT} for all data points, and AIS finds no more on {audit.num_points} of them"


def _mixed(method: str, bad: Tensor, audit: Audit) -> str:
    if audit.shortfall:
        return (
            f"{method} for all data points, as importance weights fall short of AIS by {audit.shortfall:.2f} nats in "
            f"the mean over {audit.num_points} of those whose k-hat is at most {MOST_KHAT}"
        )
    others = f", iwae for the others, on {audit.num_points} of which AIS finds no more" if audit.num_points else ""
    return f"{method} for the {int(bad.sum())} of {len(bad)} data points whose k-hat is above {MOST_KHAT}{others}"
