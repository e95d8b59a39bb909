"""Data as a pair takes them: converted, and checked once for their kind."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from ppvae.batches import Batch, as_batch
from ppvae.conversion import data_for, to_pair
from ppvae.own_rows import refuse_other_rows
from ppvae.threads import exclusive, outermost

R = TypeVar("R")


def accepted(pair: Any, data: Any, call: str) -> Batch:
    """A batch that the pair has been checked on; one of a kind that has passed is returned as it is.

    Args:
        pair: the model and guide.
        data: B data points, as `ppvae.batches.as_batch` takes them.
        call: the method that was given them. Where another one is the outermost call, the rows are not looked at: it
            may be an objective's in training, which may be traced.
    """
    own_call = outermost() == call
    if own_call:
        pair.checked_kinds.clear_if_changed(pair, in_training=torch.is_grad_enabled())
    if not pair.checked_kinds.cover(data, look=own_call):
        data = to_pair(data_for(pair, data), pair)
    refuse_other_rows(pair, data)
    if not pair.checked_kinds.cover(data, look=own_call):
        pair.check_once(data)
    return data


def of_accepted(method: Callable[[Any, Any], R]) -> Callable[[Any, Any], R]:
    """Decorates what a pair knows of its data in closed form: it takes what `Pair.log_weights` takes, all finite."""

    @exclusive
    @wraps(method)
    def called(self: Any, batch: Any) -> R:
        name = method.__qualname__
        return method(self, accepted(self, as_batch(batch) if outermost() == name else batch, name))

    return called
