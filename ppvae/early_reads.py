"""Data that a model reads before it observes them: drawn from such a model, they would not be what was read."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppvae.batches import Batch, call, map_batch, num_rows, rows, tensors
from ppvae.devices import gpus
from ppvae.internals import TorchDispatchMode, memory_of, tree_leaves
from ppvae.layouts import Terms, first_difference
from ppvae.mode import mode
from ppvae.model_and_guide import ModelAndGuide
from ppvae.precise_draws import PreciseDraws
from ppvae.refusals import ContractError
from ppvae.sites import is_term, sample_sites, unmasked
from ppvae.unconditioned import draw_jointly, was_observed

NUM_ROWS = 16
"""How many data points are drawn to find out: enough for a bit that is read to differ from the one that is drawn."""


@torch.no_grad()
def refuse_early_reads(
    pair: Any,
    batch: Batch,
    given: Mapping[str, Tensor] = MappingProxyType({}),
    latents_alone: bool = False,
) -> None:
    """Refuses a model in which a site depends on data before the statement that observes, and so draws, them.

    Where data are read early at all, a few rows are drawn, and the model is run again on them: each site's distribution
    has to be the one that its draw came from. To read no more than a shape, a type, or where values are missing is no
    fault.

    Args:
        pair: the model and guide.
        batch: B data points.
        given: latents that are not drawn, by site, `[B, *event]`.
        latents_alone: whether only latents are wanted, which the model may draw before it reads anything early.

    Raises:
        ppvae.ContractError: a site does (it is named).
    """
    device = next(iter(tensors(batch).values())).device
    index = torch.arange(NUM_ROWS, device=device) % num_rows(batch)
    few = map_batch(torch.clone, rows(batch, index))
    with mode(pair, training=False), torch.random.fork_rng(gpus(pair)), pyro.validation_enabled(False):
        read = _read_early(pair, few)
        if not read or device.type == "meta":  # which has no numbers to compare
            return
        given = {name: value[index] for name, value in given.items()}
        with _Densities() as before:
            drawn = draw_jointly(pair, few, given)
        values = {name: site["value"] for name, site in sample_sites(drawn.trace).items() if not is_term(site)}
        with _Densities() as after:
            draw_jointly(pair, drawn.batch, values)
    if not (differing := first_difference(before.terms, after.terms)):
        return
    (_, name), a, b = differing
    sites = list(sample_sites(drawn.trace).items())
    later = sites[[each for each, _ in sites].index(name) :]
    if latents_alone and all(was_observed(site) or is_term(site) for _, site in later):
        return
    raise ContractError(
        f"model site '{name}': found that it depends on data before they are observed, and so drawn, as {read} "
        f"(log probability {a:.6g} when it was drawn, {b:.6g} given what was drawn), expected data to be read below "
        "the statement that observes them; move it, or read the site's value, `x = pyro.sample('x', ..., obs=x)`; "
        "observe the parts of a sequence one by one, each before it is read, as `obs=x[:, t]`; and pass what is no "
        "draw, such as a row's sum, as an entry of the batch of its own"
    )


def _read_early(pair: ModelAndGuide, batch: Batch) -> list[str]:
    """The sites that observe data which the model has made something of by then, be it only of their shape."""
    reads = _Reads({memory_of(t) for t in tensors(batch).values()})
    with PreciseDraws(pair), poutine.trace(), _Observing(reads) as observing, reads, _Leaving(reads):
        call(pair.model, batch)
    return observing.late


class _Reads(TorchDispatchMode):
    """Notes which memory operations read, and distributions hold; to take a view of it is none."""

    def __init__(self, held: set[int]):
        super().__init__()
        self._held = held
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note([args, kwargs], but=result)
        return result

    def note(self, values: Any, but: Any = ()) -> None:
        """Notes the memory of tensors in containers, but for that of some."""
        self.memory |= (_memory(values) - _memory(but)) & self._held


class _Leaving(TorchFunctionMode):
    """Notes which memory leaves torch, for NumPy or a list: no operation tells what is made of it there."""

    ways = (Tensor.numpy, Tensor.__array__, Tensor.tolist)

    def __init__(self, reads: _Reads):
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ways:
            self._reads.note(args)
        return func(*args, **(kwargs or {}))


def _with_bases(fn: Any) -> list[Any]:
    return [fn, *_with_bases(fn.base_dist)] if hasattr(fn, "base_dist") else [fn]


def _memory(values: Any) -> set[int]:
    return {memory_of(t) for t in tree_leaves(values) if isinstance(t, Tensor)}


class _Observing(Messenger):
    """Keeps the names of the sites that observe what has been read."""

    def __init__(self, reads: _Reads):
        super().__init__()
        self._reads = reads
        self.late: list[str] = []

    def _pyro_sample(self, msg: Message) -> None:
        self._reads.note([vars(fn) for fn in _with_bases(msg["fn"])])
        if msg["is_observed"] and not is_term(msg) and _memory(msg["value"]) & self._reads.memory:
            self.late.append(str(msg["name"]))


class _Densities(Messenger):
    """Keeps each site's log probability, without masks, before its value can be written over what it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: Terms = {}

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or is_term(msg):
            return
        try:
            density = unmasked(msg["fn"]).log_prob(msg["value"])
        except (KeyError, NotImplementedError):  # of a flow without an inverse
            return
        self.terms["model", str(msg["name"])] = density.reshape(1, -1)
