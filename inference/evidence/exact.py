"""log p(x) from the pair itself."""

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.configurations import log_prob_by_configurations
from ppvae.enumerable import model_runs_enumerated
from ppvae.inference.evidence.method import EvidenceMethod, Task
from ppvae.inference.runtime.chunks import over_data
from ppvae.inference.runtime.measuring import finite
from ppvae.inference.runtime.records import Evidence
from ppvae.pair import Pair


class Exact(EvidenceMethod):
    """`pair.log_prob`: a closed form, or discrete latents summed out; else the sum over all configurations of these."""

    name = "exact"
    about = (
        "`pair.log_prob`, where the pair knows it; else the sum over all that discrete latents can be, if it is short"
    )
    trusted = "always"
    exact = True

    def run(self, task: Task) -> Evidence:
        def measure(batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
            estimate = _log_prob(task.pair, batch).double()
            return {"estimate": estimate, "std_error": torch.zeros_like(estimate)}

        title = "log evidence" if task.progress else None
        return self.record(0, finite(over_data(task.pair, task.batch, 1, measure, title)))


def _log_prob(pair: Pair, batch: Batch) -> Tensor:
    """By the pair itself; else, where it does not know, or its model does not run enumerated, by configurations."""
    try:
        if type(pair).log_prob is Pair.log_prob and not model_runs_enumerated(pair, batch):
            raise NotImplementedError(f"{type(pair).__name__}.log_prob: the model does not run enumerated; use 'iwae'")
        return pair.log_prob(batch)
    except NotImplementedError as unknown:
        try:
            return log_prob_by_configurations(pair, batch)
        except NotImplementedError:
            raise unknown from None
