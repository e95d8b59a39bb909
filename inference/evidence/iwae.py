"""log p(x) by importance weights from the guide."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from ppvae.inference.compiling.repeated import Repeated
from ppvae.inference.evidence import streamed
from ppvae.inference.evidence.coverage import judged
from ppvae.inference.evidence.method import EvidenceMethod, Task
from ppvae.inference.evidence.pareto import khats_drawn_together
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence
from ppvae.own_rows import rows_or_all

MOST_KHAT = 0.7
"""Pareto k-hat above which importance weights are not to be trusted: Vehtari et al. 2024 (arXiv:1507.02646)."""

MOST_TYPICAL_KHAT = 0.45
"""The same, of k-hat drawn toward that of all the data, plus its error: above it 95% intervals cover less than 93%."""


class ImportanceWeights(EvidenceMethod):
    """`log (1/K) sum_k p(x, z_k) / q(z_k | x)`, over draws from the guide.

    Where draws have missed a large weight, k-hat looks good just because the estimate is too low. If k-hats of other
    data points do not tell, as theirs differ, those draws judge only, and others make the estimate. Weights that look
    bounded (k-hat below 0) are not drawn again: that leaves a lower bound too low, if anything.
    """

    name = "iwae"
    about = (
        "importance weights of draws from the guide, or from the pair's `proposal()`; a mode that the guide leaves out "
        "leaves no trace in them. k-hat is infinite where the guide gives no probability to latents that the model "
        "has, and where all weights of a discrete latent are equal. Where k-hat differs between the data points, it is "
        "of as many draws that judge only, and others make the estimate"
    )
    trusted = (
        f"k-hat is at most {MOST_KHAT}, and at most {MOST_TYPICAL_KHAT}, less its standard error, once it is drawn "
        "toward the mean over the data as far as it is noise"
    )
    limit = f"k-hat > {MOST_KHAT}, or > {MOST_TYPICAL_KHAT} over the data"

    def run(self, task: Task) -> Evidence:
        found = self._measured(task)
        typical, error = khats_drawn_together(found.khat, task.num_particles)
        alone = (error > 0) & (typical > 0)
        if not (alone.any() and found.reliable.any()):
            return found
        others = self._measured(replace(task, batch=rows_or_all(task.pair, task.batch, alone)))
        return replace(found.with_rows(alone, others), khat=found.khat, reliable=found.reliable)

    def _measured(self, task: Task) -> Evidence:
        """An estimate, and its judgment by the same draws."""
        pair = task.pair.proposal()
        measure = partial(streamed.log_mean_weight, Repeated(pair, streamed.log_weights))
        title = "log evidence" if task.progress else None
        found = finite(over_data(pair, task.batch, task.num_particles, measure, title))
        khat = judged(found["khat"], pair, task.batch)
        return self.record(task.num_particles, found | {"khat": khat})

    def reliable(self, found: Mapping[str, Tensor]) -> Tensor:
        khat = found["khat"]
        typical, error = khats_drawn_together(khat, int(found["num_particles"]))
        return (khat <= MOST_KHAT) & (typical + error <= MOST_TYPICAL_KHAT)

    def is_candidate(self, task: Task) -> bool:
        return True
