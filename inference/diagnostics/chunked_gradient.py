"""One gradient of an objective in bounded memory, whatever its number of particles."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.compiling.programs import flat_gradient
from ppvae.inference.objectives.enumerated import EnumeratedELBO
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.gumbel import GumbelSoftmaxELBO
from ppvae.inference.objectives.importance_weighted import WeightObjective
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.chunks import sizes
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.pair import Pair


def gradient(
    objective: Objective, pair: Pair, batch: Batch, parameters: Sequence[Tensor], at_once: int
) -> tuple[Tensor, Tensor]:
    """The value, `[B]`, and the gradient of the surrogate with respect to all parameters, flat, `[P]`.

    A function of the log weights that takes more particles than are to be held at once is run twice: first to know all
    the weights, then, with the same random numbers, to differentiate chunk after chunk. An ELBO is the mean of ELBOs of
    fewer particles. Other objectives, and those whose call does more than that, are run whole.

    Args:
        objective: what to differentiate.
        pair: the model and guide.
        batch: B data points.
        parameters: with respect to what; one that the surrogate does not reach has gradient zero.
        at_once: the most particles to hold in memory.
    """
    if _is_function_of_weights(objective) and objective.num_draws > at_once:
        return _in_two_passes(objective, pair, batch, parameters, at_once)
    if isinstance(objective, ELBO | EnumeratedELBO | GumbelSoftmaxELBO) and objective.num_particles > at_once:
        found = []
        for size in sizes(objective.num_particles, at_once):
            value, surrogate = replace(objective, num_particles=size)(pair, batch)
            share = size / objective.num_particles
            found.append((share * value.detach(), share * flat_gradient(surrogate, parameters)))
        values, gradients = zip(*found, strict=True)
        return torch.stack(values).sum(0), torch.stack(gradients).sum(0)
    value, surrogate = objective(pair, batch)
    return value.detach(), flat_gradient(surrogate, parameters)


@torch.no_grad()
def value(objective: Objective, pair: Pair, batch: Batch, at_once: int) -> Tensor:
    """The value alone, `[B]`, likewise in bounded memory."""
    if _is_function_of_weights(objective):
        draws = (objective.draw(pair, batch, size).log_w for size in sizes(objective.num_draws, at_once))
        return objective.bound(torch.cat(list(draws)))
    if isinstance(objective, ELBO | EnumeratedELBO | GumbelSoftmaxELBO):
        num = objective.num_particles
        parts = (replace(objective, num_particles=k)(pair, batch)[0] * k / num for k in sizes(num, at_once))
        return torch.stack(list(parts)).sum(0)
    return objective(pair, batch)[0]


def _is_function_of_weights(objective: Objective) -> TypeGuard[WeightObjective]:
    """Nothing else: a subclass whose call adds something must be called."""
    return isinstance(objective, WeightObjective) and type(objective).__call__ is WeightObjective.__call__


def _in_two_passes(
    objective: WeightObjective, pair: Pair, batch: Batch, parameters: Sequence[Tensor], at_once: int
) -> tuple[Tensor, Tensor]:
    device = parameters[0].device
    log_w, states, scored = [], [], False
    with torch.no_grad():
        for size in sizes(objective.num_draws, at_once):
            states.append(random_state(device))
            draw = objective.draw(pair, batch, size)
            log_w.append(draw.log_w)
            scored = bool(draw.scored)
    all_log_w = torch.cat(log_w)
    weighting = objective.weigh(all_log_w, scored)
    total, start = torch.zeros(sum(p.numel() for p in parameters), dtype=all_log_w.dtype, device=device), 0
    for state, chunk in zip(states, log_w, strict=True):
        set_random_state(state, device)
        draw = objective.draw(pair, batch, len(chunk))
        total += flat_gradient(objective.surrogate(draw, weighting.rows(start, start + len(chunk))), parameters)
        start += len(chunk)
    more = objective.besides(pair, batch)
    if more is not None:
        total += flat_gradient(more, parameters)
    return objective.bound(all_log_w), total
