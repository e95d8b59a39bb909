"""The guide trained further while the model is frozen: how much of the gap is unfinished training."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.batches import Batch, as_batch, transformed
from ppvae.conversion import data_for, to_pair
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.gradients import has_scored_sites
from ppvae.inference.objectives.protocol import Maximized
from ppvae.inference.runtime.chunks import evaluating
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.training.fitting import fit
from ppvae.inference.training.settings import StepOptions
from ppvae.mode import mode
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.state import copied_state, set_state
from ppvae.tracing import draw_latents, trace_model, trace_pair
from ppvae.weights import sum_terms

LR = 3e-3
RISING = 3.0
"""Standard errors by which the mean bound of the last quarter of the steps must exceed that of the quarter before, to
count as still rising."""


@contextmanager
def refitted(
    pair: Pair,
    train: Any,
    steps: int,
    transform: Callable[[Any], Any] | None,
    seed: int,
    progress: bool,
    objective: Maximized | None = None,
    further: Sequence[nn.Parameter] = (),
) -> Iterator[str]:
    """For the block, trains the pair's guide further on `train` by the ELBO, with the model frozen; then restores it.

    Parameters that the guide shares with the model are frozen too. Yields a note: that the bound was still rising, that
    the guide has nothing of its own to train, or an empty one. Another objective may learn `further` parameters, which
    the guide does not have.
    """
    two = rows_or_all(pair, as_batch(train), slice(2))
    with evaluating(pair, seed):
        two = to_pair(two, pair)
        two = to_pair(data_for(pair, transformed(transform, two)), pair)
        own = [*guide_parameters(pair, two), *further]
        num_particles = 2 if has_scored_sites(pair, two) else 1
        statistics = _running_statistics(pair, two)
    if not own:
        yield "undefined: the guide has no parameters of its own"
        return
    state = copied_state(pair)
    frozen = [p for p in pair.parameters() if p.requires_grad and not _among(p, own)]
    try:
        for p in frozen:
            p.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* was not registered in the param store")  # Pyro's, of frozen ones
            run = fit(
                pair,
                train,
                objective or ELBO(num_particles),
                steps=steps,
                lr=LR,
                schedule=lambda done: 1 - done,
                transform=transform,
                seed=seed,
                progress=progress,
                options=StepOptions(distributed=processes().size > 1),
            )
        set_state(pair, {name: state[name] for name in statistics})
        rising = is_rising(torch.as_tensor(run.history["bound_per_step"]))
        yield f"still rising after {steps} steps, so more training would gain more" if rising else ""
    finally:
        for p in frozen:
            p.requires_grad_(True)
        set_state(pair, state)


def guide_parameters(pair: Pair, batch: Batch) -> list[nn.Parameter]:
    """The parameters that the guide depends on and the model does not."""
    learned = [p for p in pair.parameters() if p.requires_grad]
    with mode(pair, training=False), torch.enable_grad():
        latents = {name: z.detach() for name, z in draw_latents(pair, batch, 1).items()}
        of_model = sum_terms(trace_model(pair, batch, latents).log_p_terms()).sum()
        of_guide = of_model.new_zeros(())
        for term in trace_pair(pair, batch, 1).log_q_terms().values():
            of_guide = of_guide + term.sum()
    in_model, in_guide = _reached(of_model, learned), _reached(of_guide, learned)
    return [p for p, guide, model in zip(learned, in_guide, in_model, strict=True) if guide and not model]


def _reached(total: Tensor, parameters: Sequence[Tensor]) -> list[bool]:
    if not (total.requires_grad and parameters):
        return [False] * len(parameters)
    return [g is not None for g in torch.autograd.grad(total, parameters, allow_unused=True)]


def _among(parameter: Tensor, parameters: Sequence[Tensor]) -> bool:
    return any(parameter is each for each in parameters)


def _running_statistics(pair: Pair, batch: Batch) -> list[str]:
    """The names of the buffers that a run of the model in training mode changes; they are restored."""
    latents, before = draw_latents(pair, batch, 1), {name: b.clone() for name, b in pair.named_buffers()}
    with mode(pair, training=True):
        trace_model(pair, batch, latents)
    changed = [name for name, b in pair.named_buffers() if not torch.equal(b, before[name])]
    for name in changed:
        pair.get_buffer(name).copy_(before[name])
    return changed


def is_rising(bounds: Tensor) -> bool:
    """Whether the last quarter of the steps exceeds the one before by more than noise."""
    quarter = len(bounds) // 4
    if quarter < 2:
        return False
    before, last = bounds[-2 * quarter :].chunk(2)
    noise = ((before.var() + last.var()) / quarter).sqrt()
    return bool(last.mean() - before.mean() > RISING * noise)
