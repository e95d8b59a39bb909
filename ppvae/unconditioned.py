"""A model without its data: what it observes is drawn, and what it reads after that is what was drawn."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, call, map_batch, num_rows, tensors
from ppvae.internals import memory_of
from ppvae.invalid_values import after_last_site, invalid_values_told
from ppvae.model_and_guide import ModelAndGuide
from ppvae.precise_draws import PreciseDraws
from ppvae.sites import deterministic_values, is_term, presence, sample_sites


class Drawn(NamedTuple):
    """A draw of all that a model has.

    Attributes:
        trace: the model's; sites that are observed otherwise have `infer["was_observed"]`.
        batch: the one that was given, with the draws in the place of the data.
        without_place: the sites whose draws have none there, as the model observes what it computes from the batch.
    """

    trace: Trace
    batch: Batch
    without_place: list[str]

    def values(self, observed: bool | None = None) -> dict[str, Tensor]:
        """The draws by site, `[B, *event]`: of those that are observed otherwise, or of latents, or of all.

        All are those two, and what the model states by name.
        """
        shape = (num_rows(self.batch),)
        named = deterministic_values(self.trace, shape) if observed is None else {}
        return named | {
            name: site["value"].expand(*shape, *site["fn"].event_shape)
            for name, site in sample_sites(self.trace).items()
            if (observed is None or was_observed(site) == observed) and not is_term(site)
        }

    def only_read(self) -> list[str]:
        """The rows of the batch, by name, that the model reads and does not observe.

        None where it observes what it computes from the batch, as then it cannot be told.
        """
        sites = sample_sites(self.trace).values()
        observed = {memory_of(site["infer"]["obs"]) for site in sites if was_observed(site)}
        named = tensors(self.batch)
        read = [f"data[{name}]" for name, t in named.items() if memory_of(t) not in observed]
        return read if len(read) < len(named) else []

    def stale(self) -> list[str]:
        """What may be no draw of the joint, and the remedy; nothing where all is.

        A site that is drawn after one without a place reads the batch's data, where it reads them, not the draw.
        """
        names = [name for name, site in sample_sites(self.trace).items() if not is_term(site)]
        later = names[names.index(self.without_place[0]) + 1 :] if self.without_place else []
        if not later:
            return []
        return [
            f"site '{self.without_place[0]}' observes what the model computes from the batch, so its draws are not "
            f"written there: where {later} depend on it, they read the batch's data, not the draws; prepare "
            "the data before they are passed to the model, so that it observes a tensor of the batch itself"
        ]


def draw_jointly(
    pair: ModelAndGuide, batch: Batch, given: Mapping[str, Tensor] = MappingProxyType({}), *, renewed: bool = False
) -> Drawn:
    """Draws what a pair's model has, latents and data, in turn. What it only reads stays as it is.

    Args:
        pair: whose model is drawn from.
        batch: B data points, left untouched.
        given: latents that are not drawn, by site, `[B, *event]`.
        renewed: draw those of them that are masked, and so not there.
    """
    batch = map_batch(lambda t: t.clone(memory_format=torch.contiguous_format), batch)
    told = invalid_values_told(lambda: after_last_site("model", tracer.trace))
    with told, PreciseDraws(pair), poutine.trace() as tracer, _Unconditioned(batch, given, renewed) as handler:
        call(pair.model, batch)
    return Drawn(tracer.trace, batch, handler.without_place)


class _Unconditioned(UnconditionMessenger):
    """Draws what is observed, and writes it over the data, through whatever view of them the model observes.

    Pyro's `uncondition` would draw what the model states (`pyro.deterministic`, `pyro.factor`), too.
    """

    def __init__(self, batch: Batch, given: Mapping[str, Tensor], renewed: bool):
        super().__init__()
        self._given, self._renewed = given, renewed
        self._held = {memory_of(t) for t in tensors(batch).values()}
        self.without_place: list[str] = []

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._given:
            value, there = self._given[str(msg["name"])], presence(msg)
            if self._renewed and there is not None:
                value = torch.where(there, value, cast(Any, msg["fn"])())
            msg["value"], msg["done"] = value, True
        elif not (site_is_subsample(msg) or is_term(msg)):
            super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Message) -> None:
        if not was_observed(msg):
            return
        place, value = cast(Any, msg["infer"])["obs"], cast(Tensor, msg["value"])
        if memory_of(place) in self._held and place.shape == value.shape and not _overlaps(place):
            with torch.no_grad():
                place.copy_(value)
        else:
            self.without_place.append(str(msg["name"]))


def _overlaps(t: Tensor) -> bool:
    """Whether some of a tensor's entries are one number, as where it was expanded."""
    return any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True))


def was_observed(site: Mapping[str, Any]) -> bool:
    """Whether a site of `draw_jointly` holds data that were drawn."""
    return site["infer"].get("was_observed", False)
