"""Two ways to run a model or a guide with K particles for each of B data points. From outside both look alike.

*Leading*: latents reach the function as `[K, B, *event]`, and the data once, as `[B, *event]`. Fast; right for networks
that take any number of leading dimensions. *By rows*: the function runs on the batch repeated to K*B rows, as plain
Pyro would run it. Slower for large K, and right for any function that treats each row by itself.
"""

from typing import Any, cast

import pyro
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, call, num_rows, repeated
from ppvae.internals import is_deterministic
from ppvae.invalid_values import after_last_site, invalid_values_told
from ppvae.model_and_guide import ModelAndGuide
from ppvae.own_rows import refuse_other_number
from ppvae.splitting import merged, split, split_distribution

PARTICLES = "_particles"
LEADING, ROWS = "leading", "rows"


def layout_of(pair: ModelAndGuide, role: str) -> str:
    """The layout in which a pair's "model" or "guide" is run.

    A guide that takes its own rows only has no others, and one that is right with particles leading sees the data once.
    """
    return LEADING if role == "guide" and (pair.own_rows is not None or pair.guide_leads) else pair.particles


def run(pair: ModelAndGuide, role: str, batch: Batch, num_particles: int) -> Trace:
    """The trace of a pair's "model" or "guide" on a batch, its sites of batch shape `[K, B]`, however it was run.

    Handlers that are to see the sites so are entered before the call.
    """
    function = getattr(pair, role)
    if role == "guide":
        refuse_other_number(pair, batch)
    told = invalid_values_told(lambda: after_last_site(role, tracer.trace))
    with told, poutine.trace() as tracer, pyro.plate(PARTICLES, num_particles, dim=-2):
        if layout_of(pair, role) == ROWS:
            with _Rows(num_particles, num_rows(batch)):
                call(function, repeated(batch, num_particles))
        else:
            call(function, batch)
    if role == "guide":  # lest a model that is given these draws be given the guide's rows, too, in place of its own
        for name in [name for name, site in tracer.trace.nodes.items() if site_is_subsample(site)]:
            tracer.trace.remove_node(name)
    return tracer.trace


class _Rows(Messenger):
    """Between a function of K*B rows, and its handlers, inside, and handlers that see K particles of B data points."""

    def __init__(self, num_particles: int, num_rows: int):
        super().__init__()
        self._shape = (num_particles, num_rows)
        self._observed: dict[str, Any] = {}
        self._inside: dict[str, dict[str, Any]] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        fn, value, own = cast(Any, msg["fn"]), msg["value"], cast(dict[str, Any], msg)
        self._inside[str(msg["name"])] = {key: own[key] for key in ("fn", "mask", "scale", "cond_indep_stack")}
        if msg["is_observed"]:
            self._observed[str(msg["name"])] = value
        if isinstance(value, Tensor) and not (msg["is_observed"] and self._is_unlike(value, fn.event_dim)):
            msg["value"] = self._split(value, fn.event_dim, declared=not is_deterministic(msg))
        if isinstance(msg["mask"], Tensor):
            msg["mask"] = split(msg["mask"], 0, self._shape)
        if isinstance(msg["scale"], Tensor):
            msg["scale"] = split(msg["scale"], 0, self._shape)
        msg["fn"] = split_distribution(fn, self._shape)
        msg["cond_indep_stack"] = tuple(self._split_frame(frame) for frame in msg["cond_indep_stack"])

    def _is_unlike(self, value: Tensor, event_dim: int) -> bool:
        """Whether data have no rows where a site's distribution has them, as images observed as vectors do."""
        rows = value.shape[: value.dim() - event_dim][-1:]
        return bool(rows) and rows[0] not in (1, self._shape[0] * self._shape[1])

    def _split_frame(self, frame: Any) -> Any:
        """The data plate's frame, with the data points alone, and the same scale."""
        num_particles, num_rows = self._shape
        if frame.dim != -1 or frame.size != num_particles * num_rows:
            return frame
        return frame._replace(size=num_rows, full_size=frame.full_size and frame.full_size / num_particles)

    def _split(self, value: Tensor, event_dim: int, declared: bool) -> Tensor:
        """A value with its rows split; of `pyro.deterministic`, which may not say where they are, those of dim 0."""
        num_rows = self._shape[0] * self._shape[1]
        if not declared and event_dim == value.dim():
            return split(value, event_dim - 1, self._shape) if value.shape[:1] == (num_rows,) else value
        return split(value, event_dim, self._shape)

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        name = str(msg["name"])
        if msg["is_observed"] and name in self._observed:
            msg["value"] = self._observed[name]
        elif isinstance(msg["value"], Tensor):
            msg["value"] = merged(msg["value"], cast(Any, msg["fn"]).event_dim, self._shape)
        cast(dict[str, Any], msg).update(self._inside.pop(name))
