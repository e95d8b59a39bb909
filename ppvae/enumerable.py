"""Whether a pair can be run with all values of its discrete latents at once: not every model takes their dimensions."""

from collections.abc import Callable
from typing import Any

import torch

from ppvae.batches import Batch
from ppvae.contract import check_shapes
from ppvae.model_and_guide import ModelAndGuide
from ppvae.tracing import trace_model, trace_pair


def guide_runs_enumerated(pair: ModelAndGuide, batch: Batch) -> bool:
    """Whether guide and model run with all values of the guide's discrete sites; if not, these have to be drawn."""
    return _runs(lambda: check_shapes(trace_pair(pair, batch, 1, enumerate_guide=True)))


def model_runs_enumerated(pair: ModelAndGuide, batch: Batch) -> bool:
    """Whether the model runs with all values of its discrete latents."""
    return _runs(lambda: trace_model(pair, batch).log_p_terms())


@torch.no_grad()
def _runs(function: Callable[[], Any]) -> bool:
    """Whether a run succeeds, which leaves the generators as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            function()
        except Exception:  # of the user's code, which may raise anything
            return False
    return True
