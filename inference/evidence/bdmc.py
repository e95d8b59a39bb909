"""Bidirectional Monte Carlo: AIS on the data, certified by both sides of log p(x) on simulated data."""

from dataclasses import replace
from functools import partial

from ppvae.conversion import to_pair
from ppvae.inference.evidence.ais import AnnealedImportanceSampling
from ppvae.inference.evidence.annealed_importance import run_chains, weigh_both_ways
from ppvae.inference.evidence.few_weights import MOST_STD_ERROR
from ppvae.inference.evidence.method import EvidenceMethod, Task
from ppvae.inference.runtime.differences import less
from ppvae.inference.runtime.records import Evidence, Sandwich
from ppvae.simulation import simulate


class BidirectionalMonteCarlo(EvidenceMethod):
    """AIS, with a certificate from data whose latents are known.

    Source: Grosse et al. 2015 (arXiv:1511.02543).
    """

    name = "bdmc"
    about = (
        "AIS on the data; and on as many data points simulated from the model, whose latents are known, AIS and its "
        "reverse: a lower and an upper bound, in the record's `certificate`. It certifies the evaluator on the model's "
        "own data, and says nothing about yours"
    )
    trusted = f"the standard error is at most {MOST_STD_ERROR} nats"

    def __init__(self) -> None:
        self._chains = AnnealedImportanceSampling("guide")

    def run(self, task: Task) -> Evidence:
        return replace(self._chains.run(task), certificate=self.sandwich(task))

    def sandwich(self, task: Task) -> Sandwich:
        """Both sides of log p(x) on data simulated from the model in place of the task's."""
        settings = replace(self._chains.settings(task), checkpoint=None)  # which is for the real data
        pair = task.pair
        simulated, latents = simulate(pair, to_pair(task.batch, pair))
        reverse = settings.num_warm_up + settings.num_temperatures
        both = partial(weigh_both_ways, latents)
        found = run_chains(pair, simulated, settings, both, task.progress, more_steps=reverse)
        below, above = (self._chains.record_of(settings, found[way], found) for way in ("forward", "backward"))
        upper = replace(above, estimate=-above.estimate, method=f"reverse {settings.name}")
        return Sandwich(below, upper, less(self.name, upper, below))
