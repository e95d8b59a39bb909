"""The default: exact where possible, else importance weights, and AIS where these fail or are found to fall short."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.evidence.larger_bound import shortfall
from ppvae.inference.evidence.method import EvidenceMethod, Task, exactly, unreached
from ppvae.inference.runtime.records import Evidence
from ppvae.own_rows import rows_or_all
from ppvae.refusals import ContractError

AUDITED, AUDIT = 64, AIS(num_chains=16, num_temperatures=50)
"""How many data points are annealed to audit what was measured, and how, at most."""

FILTERED = 4
"""Times as many particles as weights: filters still take far less time than AIS."""

AUDIT_SHARE = 0.25
"""Of the time that is left, what an audit may take."""


class Auto(EvidenceMethod):
    """Each data point by the cheapest method that its diagnostics allow, and audits of what these cannot see.

    A guide narrower than the posterior seldom draws latents whose weights are large; where it has drawn none, weights,
    standard error and k-hat all look fine. So what k-hat accepts is audited: some of it is annealed as well. And a mode
    that the guide leaves out is found neither by weights nor by annealing from the guide, but may be by annealing from
    the prior: so that is tried on some of the data points. Of sequences that declare their steps, a particle filter
    comes before AIS.

    Args:
        methods: the registry.
    """

    name = "auto"
    about = (
        "exact where possible; else importance weights; where k-hat is bad a particle filter, if the pair declares its "
        "steps in time, and then AIS. A few of the other data points are annealed too, and if they are found to fall "
        "short, all are. If AIS from the prior then finds more on a few data points, as where the guide leaves out a "
        'mode, "best" measures all'
    )
    bounded = True
    trusted = "the method taken for the data point says so; `methods` and `reason` say which, and why"

    def __init__(self, methods: Mapping[str, EvidenceMethod]):
        self._methods = methods

    def run(self, task: Task) -> Evidence:
        if found := exactly(self._methods, task):
            return found
        weighed = self._weighed(task)
        try:
            found, whole = self._annealed(task, weighed)
        except ContractError as error:
            first = f"{weighed.reason}; " if weighed.reason else "iwae, as "
            return replace(weighed, reason=f"{first}annealing does not apply: {error}")
        if any(settings.start == "prior" for settings in task.annealing):
            return found
        if not whole or task.is_over():
            return replace(found, reason=f"{found.reason}; AIS from the prior was not tried, as the time was spent")
        try:
            more, num = self._shortfall(task, found, _some(torch.ones_like(found.reliable)), "prior")
        except ContractError:  # it does not apply to such a model
            return found
        if not more:
            return found
        given = tuple(_with_halves(settings) for settings in task.annealing[:1])
        from_prior = tuple(replace(settings, start="prior", checkpoint=None) for settings in given)
        best = self._methods["best"].run(replace(task, annealing=given + from_prior))
        return replace(
            best,
            reason=f"best, as AIS from the prior finds {more:.2f} nats more in the mean over {num} data points: "
            f"{best.reason}",
        )

    def _weighed(self, task: Task) -> Evidence:
        """Importance weights; and a particle filter where k-hat is bad, if the pair declares its steps."""
        found = self._methods["iwae"].run(task)
        bad, steps = ~found.reliable, self._methods["particle filter"]
        if not (bad.any() and steps.is_candidate(task)):
            return found
        try:
            few = rows_or_all(task.pair, task.batch, bad)
            filtered = steps.run(replace(task, batch=few, num_particles=FILTERED * task.num_particles))
        except ContractError as error:
            return replace(found, reason=f"{steps.name} does not apply: {error}")
        return replace(
            found.with_rows(bad, filtered),
            method=self.name,
            reason=f"{steps.name} for the {int(bad.sum())} of {len(bad)} data points whose k-hat is bad",
            candidates={"iwae": found},
        )

    def _annealed(self, task: Task, weighed: Evidence) -> tuple[Evidence, bool]:
        """What was weighed, and AIS where that is not reliable, or for all data points where it finds more.

        And whether there was time for all of these.
        """
        some = _some(weighed.reliable)
        more, num = self._shortfall(task, weighed, some, "guide") if some.any() else (0.0, 0)
        bad = ~weighed.reliable | bool(more)
        if not bad.any():
            first = weighed.reason or "iwae, as k-hat is good for all data points"
            audit = f", and AIS finds no more on {num} of them" if num else "; there was no time to anneal any"
            return replace(weighed, reason=first + audit), True
        chains = self._chains(replace(task, batch=rows_or_all(task.pair, task.batch, bad)))
        found = weighed.with_rows(bad, chains)
        late = found.estimate.isnan()
        weights, trouble = "iwae", "k-hat is bad"
        if weighed.candidates:
            weights, trouble = "particle filter or iwae", "particle filter is too noisy"
        if more:
            reason = (
                f"{chains.method} for all data points, as {weights} falls short of AIS by {more:.2f} nats in the mean "
                f"over {num} of those where it seems reliable"
            )
        else:
            others = f", {weights} for the others, on {num} of which AIS finds no more" if num else ""
            reason = f"{chains.method} for the {int(bad.sum())} of {len(bad)} data points whose {trouble}{others}"
        if late.any():
            found = found.with_rows(late, unreached(weighed))
            reason += (
                f"; in the time there was, it reached {int((bad & ~late).sum())}, and {weights} stands for the rest"
            )
        if weighed.reason:
            reason += f"; {weighed.reason}"
        candidates = weighed.candidates or {"iwae": weighed}
        return replace(found, method=self.name, reason=reason, candidates=candidates), not late.any()

    def _shortfall(self, task: Task, found: Evidence, at: Tensor, start: str) -> tuple[float, int]:
        """Nats by which some data points fall short of a short AIS, in the mean; zero where that may be noise.

        And how many data points these were.
        """
        given = task.annealing[0] if task.annealing else AUDIT
        num_temperatures = min(given.num_temperatures, AUDIT.num_temperatures)
        light = replace(
            given, num_chains=AUDIT.num_chains, num_temperatures=num_temperatures, start=start, checkpoint=None
        )
        audit = replace(task, batch=rows_or_all(task.pair, task.batch, at), annealing=(light,))
        annealed = found.with_rows(at, self._chains(audit.with_share(AUDIT_SHARE)))
        at = at & ~annealed.estimate.isnan()
        return shortfall(found, annealed, at), int(at.sum())

    def _chains(self, task: Task) -> Evidence:
        """AIS from where the settings say, or from the prior where the guide is no place to start from."""
        try:
            return self._methods["ais"].run(task)
        except ContractError:
            from_prior = tuple(replace(settings, start="prior") for settings in task.annealing)
            return self._methods["ais from prior"].run(replace(task, annealing=from_prior))


def _with_halves(settings: AIS) -> AIS:
    """The settings with one more chain where their number is odd, as "best" splits the chains into halves."""
    return replace(settings, num_chains=settings.num_chains + settings.num_chains % 2)


def _some(of: Tensor) -> Tensor:
    """A mask of a few of the data points in another, the same at each call and in each process."""
    index = of.nonzero().flatten()
    chosen = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:AUDITED]]
    return torch.zeros_like(of).index_fill(0, chosen, True)
