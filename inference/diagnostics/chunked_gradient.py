"""One gradient of an objective in bounded memory, whatever its number of particles."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.chunks import sizes
from ppvae.pair import Pair


def gradient(
    objective: Objective, pair: Pair, batch: Batch, parameters: Sequence[Tensor], at_once: int
) -> tuple[Tensor, Tensor]:
    """The value, `[B]`, and the gradient of the surrogate with respect to all parameters, flat, `[P]`.

    The objective's parts (see `Objective.parts`) are differentiated one after the other.

    Args:
        objective: what to differentiate.
        pair: the model and guide.
        batch: B data points.
        parameters: what to differentiate by; one that the surrogate does not reach has gradient zero.
        at_once: the most particles to hold in memory.
    """
    values, total = [], torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    for part, surrogate in objective.parts(pair, batch, list(sizes(objective.num_draws, at_once))):
        values.append(part.detach())
        total += flat_gradient(surrogate, parameters)
    return torch.stack(values).sum(0), total


@torch.no_grad()
def value(objective: Objective, pair: Pair, batch: Batch, at_once: int) -> Tensor:
    """The value alone, `[B]`, likewise in bounded memory."""
    parts = objective.parts(pair, batch, list(sizes(objective.num_draws, at_once)))
    return torch.stack([part for part, _ in parts]).sum(0)


def flat_gradient(surrogate: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all parameters, `[P]`; zero for those that the surrogate does not reach."""
    if not surrogate.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.to_dense().flatten() for g in found]).detach()  # the zeros of torch 2.8 require gradients
