"""Data as a pair takes them: copies on its device, of the types that it computes with.

Floating data become of the type of the pair's parameters; those of a pair without any keep theirs. Integers and
booleans stay what they are where the pair runs with them, as in plain Pyro: as indices, masks, counts. Where it does
not (a network takes none), they become floating, or 64-bit integers (an embedding takes no bytes).
"""

import itertools
import warnings
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from torch import nn

from ppvae.batches import (
    Batch,
    as_batch,
    call,
    entries,
    is_rows,
    map_batch,
    num_rows,
    tensors,
    with_autograd,
    with_entries,
)
from ppvae.devices import held_by, refuse_without_numbers
from ppvae.lost_digits import refuse_lost_digits
from ppvae.mode import buffers_kept, mode
from ppvae.own_rows import rows_or_all
from ppvae.sites import log_prob_terms

Types: TypeAlias = dict[str, torch.dtype]
"""The type of each entry's rows, by name."""

ROWS = 3
"""Data points that are tried: more than one, so that a mask does not pass for an index."""


def data_for(pair: nn.Module, data: Any) -> Batch:
    """Data as a checked batch, whose integers are of the types that the pair takes; all else as it is.

    Floating data are converted later, a few rows at a time, by `to_pair`: they may be a file larger than memory.

    Args:
        pair: the model and guide.
        data: as `ppvae.batches.as_batch` takes them.

    Raises:
        TypeError, ValueError: as `as_batch`; or the pair is on the device "meta", or of a precision that does not hold
            what the data differ by.
    """
    refuse_without_numbers(pair)
    batch = as_batch(data)
    types = types_for(pair, batch)
    refuse_lost("data", batch, types)
    return with_entries(batch, [t.to(types[name]) if _is_whole(t) else t for name, t in entries(batch).items()])


def refuse_lost(argument: str, batch: Batch, types: Types) -> None:
    """Refuses data that would be much the same in the types that the pair takes, as seconds since 1970 are in single.

    Args:
        argument: what the data are called.
        batch: the data, as they are.
        types: by `types_for`.
    """
    for name, t in tensors(batch).items():
        if types[name].is_floating_point:
            refuse_lost_digits(f"{argument}[{name}]", t, types[name])


def to_pair(batch: Batch, pair: nn.Module) -> Batch:
    """A copy of a batch on the pair's device, floating rows of its type; of a pair that holds nothing, as they are."""
    device, own = next((t.device for t in held_by(pair)), None), floating_type(pair)
    return map_batch(lambda t: t.to(device, own if own and t.is_floating_point() else t.dtype, copy=True), batch)


def converted(batch: Batch, types: Types) -> Batch:
    """The batch with its rows of these types; those that are so already are no copies."""
    return with_entries(
        batch, [with_autograd(t.to(types[name])) if is_rows(t) else t for name, t in entries(batch).items()]
    )


class Conversion:
    """`converted` to the types that a pair takes, which are found once for each kind of batch.

    Args:
        pair: the model and guide, on whose device the batches are.
    """

    def __init__(self, pair: nn.Module):
        self._pair, self._types = pair, dict[Any, Types]()

    def __call__(self, batch: Batch) -> Batch:
        return converted(batch, self.types(batch))

    def types(self, batch: Batch) -> Types:
        """Those of a batch."""
        kind = tuple((name, t.dtype) for name, t in tensors(batch).items())
        if kind and kind not in self._types and num_rows(batch):
            self._types[kind] = types_for(self._pair, batch)
        return self._types.get(kind) or floating_types(self._pair, batch)


def floating_converted(batch: Batch, pair: nn.Module) -> Batch:
    """The batch with its floating rows of the pair's type."""
    own = floating_type(pair)
    return map_batch(lambda t: t.to(own) if own and t.is_floating_point() else t, batch)


def floating_type(pair: nn.Module) -> torch.dtype | None:
    """That of the pair's first floating parameter, or else buffer."""
    return next((t.dtype for t in held_by(pair) if t.is_floating_point()), None)


def floating_types(pair: nn.Module, batch: Batch) -> Types:
    """The types of rows where only floating ones are converted."""
    own = floating_type(pair)
    return {name: own or t.dtype if t.is_floating_point() else t.dtype for name, t in tensors(batch).items()}


def types_for(pair: Any, batch: Batch) -> Types:
    """The types of rows that the pair takes; those of the batch where it runs with none, for its check to refuse.

    Args:
        pair: the model and guide, which are run on a few rows, without trace.
        batch: some data, on the pair's device.
    """
    own, named, types = floating_type(pair), tensors(batch), floating_types(pair, batch)
    whole = [name for name, t in named.items() if _is_whole(t)]
    if not whole:
        return types
    few = to_pair(rows_or_all(pair, batch, slice(ROWS)), pair)
    floating = own or next((t.dtype for t in named.values() if t.is_floating_point()), torch.get_default_dtype())
    choices = list(itertools.product((None, floating, torch.long), repeat=len(whole)))
    for with_densities in (True, False):  # which data outside a site's support have not, for a check to say
        for choice in choices:
            chosen = types | {name: t for name, t in zip(whole, choice, strict=True) if t is not None}
            if _runs(pair, converted(few, chosen), with_densities):
                return chosen
    return types | {name: floating for name, t in named.items() if t.dtype == torch.uint8}  # bytes of an image


def _is_whole(value: Any) -> bool:
    return is_rows(value) and not value.is_floating_point()


def _runs(pair: Any, batch: Batch, with_densities: bool) -> bool:
    """Whether guide and model run on a batch, and have densities if asked for; nothing is left changed."""
    devices = [t.device for t in tensors(batch).values() if t.is_cuda][:1]
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        mode(pair, training=False),
        buffers_kept(pair),
        pyro.validation_enabled(False),
    ):
        warnings.filterwarnings("error", "indexing with dtype torch.uint8")  # by bytes, which torch takes for a mask
        try:
            model, guide = _traced(pair, batch)
            if with_densities:
                log_prob_terms(guide), log_prob_terms(model)
            return True
        except Exception:  # of any kind: users' code
            return False


def _traced(pair: Any, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    with poutine.trace() as guide:
        call(pair.guide, batch)
    with poutine.trace() as model, poutine.replay(trace=guide.trace):
        call(pair.model, batch)
    return model.trace, guide.trace
