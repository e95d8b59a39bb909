"""The mean over data points that surrogates are: weighted, where training weighs its data."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ppvae.refusals import ContractError


class _Weights:
    """The weights in force, and whether anything has asked for them."""

    def __init__(self, values: Tensor):
        self.values, self.asked = values, False


_in_force: ContextVar[_Weights | None] = ContextVar("weights", default=None)


def mean_over_data(terms: Tensor) -> Tensor:
    """The mean of `[..., B]` over data points and all else; data points count by their weights, if they have any."""
    weights = _in_force.get()
    if weights is None:
        return terms.mean()
    weights.asked = True
    return (weights.values * terms).mean()


def average(terms: Tensor) -> Tensor:
    """The mean of `[..., B]` over these data points, by weights that sum to one, and all else."""
    weights = _in_force.get()
    return terms.mean() if weights is None else (data_weights(terms.detach().flatten(0, -2)[0]) * terms).sum(-1).mean()


def of_whole_batch(term: Tensor) -> Tensor:
    """A scalar that is one for a whole batch; it counts by the mean weight of the data points, if they have any."""
    weights = _in_force.get()
    if weights is None:
        return term
    weights.asked = True
    return weights.values.mean() * term


def data_weights(like: Tensor) -> Tensor:
    """The weights of B data points, `[B]`, which sum to one: equal, if training does not weigh its data, or if none of
    these counts, as any mean over them then counts for nothing."""
    weights, equal = _in_force.get(), torch.full_like(like, 1 / len(like))
    if weights is None:
        return equal
    weights.asked = True
    values = weights.values.to(like)
    return torch.where(values.sum() > 0, values / values.sum(), equal)


@contextmanager
def weighted(weights: Tensor | None, objective: object) -> Iterator[None]:
    """Weighs data points for the block, in which the objective is called.

    Args:
        weights: of B data points; their mean over all data is one. None for none.
        objective: for the message.

    Raises:
        ppvae.ContractError: the objective has a mean of its own, which takes no weights.
    """
    if weights is None:
        yield
        return
    own = _Weights(weights)
    token = _in_force.set(own)
    try:
        yield
    finally:
        _in_force.reset(token)
    if not own.asked:
        raise ContractError(
            f"weights: found an objective that takes the plain mean over data points, {objective}, expected a weighted "
            "one; take it by ppvae.inference.objectives.weighting.mean_over_data, in place of .mean()"
        )
