"""The guide trained further while the model is frozen: how much of the gap is unfinished training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.batches import Batch, as_batch, rows
from ppvae.inference.chunks import to_pair
from ppvae.inference.fit import fit
from ppvae.inference.isolation import mode
from ppvae.inference.objectives import ELBO
from ppvae.pair import Pair
from ppvae.tracing import draw_latents, sample_sites, trace_model, trace_pair
from ppvae.weights import sum_terms

LR = 3e-3
RISING = 3.0
"""Standard errors by which the bound of the last quarter of the steps must exceed that of the quarter before, to be
called still rising."""


@contextmanager
def refitted(
    pair: Pair, train: Any, steps: int, transform: Callable[[Any], Any] | None, seed: int, progress: bool
) -> Iterator[str]:
    """The pair, inside, with its guide trained further on `train` by the ELBO, the model as it is; outside, as before.

    Parameters that the guide shares with the model stay as they are. Yields what is to be said of it: nothing, that
    the bound was still rising, or that the guide has nothing of its own to train.
    """
    two = rows(as_batch(train), slice(2))
    two = to_pair(as_batch(transform(two)) if transform else two, pair)
    own = guide_parameters(pair, two)
    state = {name: t.clone() for name, t in pair.state_dict().items()}
    frozen = [p for p in pair.parameters() if p.requires_grad and not any(p is q for q in own)]
    if not own:
        yield "undefined: the guide has no parameters of its own"
        return
    try:
        for p in frozen:
            p.requires_grad_(False)
        run = fit(
            pair,
            train,
            ELBO(num_particles=2 if _has_scores(pair, two) else 1),
            steps=steps,
            lr=LR,
            schedule=lambda done: 1 - done,
            transform=transform,
            seed=seed,
            progress=progress,
        )
        bounds = torch.as_tensor(run.history["bound_per_step"])
        before, last = bounds.chunk(4)[-2:]
        noise = (before.var() / len(before) + last.var() / len(last)).sqrt()
        rising = last.mean() - before.mean() > RISING * noise
        yield f"still rising after {steps} steps, so that more training would gain more" if rising else ""
    finally:
        for p in frozen:
            p.requires_grad_(True)
        pair.load_state_dict(state)


def guide_parameters(pair: Pair, batch: Batch) -> list[nn.Parameter]:
    """The parameters that the guide depends on and the model does not."""
    learnt = [p for p in pair.parameters() if p.requires_grad]
    with mode(pair, training=False), torch.enable_grad():
        latents = {name: z.detach() for name, z in draw_latents(pair, batch, 1).items()}
        of_model = sum_terms(trace_model(pair, batch, latents).log_p_terms()).sum()
        log_q = [term.sum() for term in trace_pair(pair, batch, 1).log_q_terms().values()]
    in_model = _reached(of_model, learnt)
    in_guide = _reached(torch.stack(log_q).sum(), learnt) if log_q else [False] * len(learnt)
    return [p for p, guide, model in zip(learnt, in_guide, in_model, strict=True) if guide and not model]


def _reached(total: Tensor, parameters: Sequence[Tensor]) -> list[bool]:
    if not (total.requires_grad and parameters):
        return [False] * len(parameters)
    return [g is not None for g in torch.autograd.grad(total, parameters, allow_unused=True)]


def _has_scores(pair: Pair, batch: Batch) -> bool:
    """Whether a site of the guide has no reparameterised gradient."""
    sites = sample_sites(trace_pair(pair, batch, 1).guide, observed=False).values()
    return any(not site["fn"].has_rsample for site in sites)
