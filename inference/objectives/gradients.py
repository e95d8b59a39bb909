"""Gradients of functions of the log weights: which parts of the graph an estimator uses, and with what weights.

`log w = log p(x, z; theta) - log q(z | x; phi)` with `z = z(phi, noise)` depends on what is learned in three ways:
through log p at fixed z, through log q at fixed z (the *score*), and through z (the *path*). Estimators differ in the
weights they give to each. Here one run of a pair is kept with those ways apart, for any number of latent sites, each of
which may depend on those before it, and for parameters that model and guide share.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.batches import Batch, rows
from ppvae.contract import check_shapes
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.refusals import ContractError, family
from ppvae.sites import sample_sites
from ppvae.tracing import run, trace_pair
from ppvae.weights import log_weight, sum_terms


def reparameterized(fn: Any) -> bool:
    """Whether a path leads from all of a distribution's arguments to its draws.

    A Pyro distribution that is reparameterized in part says by its own `score_parts` what is not.
    """
    while isinstance(fn, MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    whole = dist.Distribution.score_parts
    return fn.has_rsample and getattr(type(fn), "score_parts", whole) is whole


def has_scored_sites(pair: Pair, batch: Batch) -> bool:
    """Whether a site of the guide is not reparameterized, or in part; by a run on two rows that leaves no trace."""
    with mode(pair, training=False), torch.random.fork_rng(gpus(pair)), torch.no_grad():
        sites = sample_sites(run(pair.guide, rows(batch, slice(2)), 1), observed=False)
    return not all(reparameterized(site["fn"]) for site in sites.values())


def gpus(pair: Pair) -> list[torch.device]:
    """Where a pair's parameters are, besides the CPU, and so its noise is drawn."""
    return list({p.device for p in pair.parameters() if p.is_cuda})


class Draw:
    """One run of a pair with K draws from the guide for each data point, and the surrogates made of it.

    Args:
        pair: the model and guide.
        batch: B data points.
        num_particles: K.
        fixed: follow no path: all latents are held fixed, as the score function holds them.
        partial: whether a followed site's log q will be differentiated along its own draw alone, as that of `stuck`
            sites is. That takes a density computed from the draw; without it a flow's is the one it kept when it drew.

    Attributes:
        joint: the run.
        scored: the guide's sites that no path leads through, or not from all arguments; all if `fixed`.
        followed: those that a path leads through.
    """

    def __init__(self, pair: Pair, batch: Batch, num_particles: int, *, fixed: bool = False, partial: bool = True):
        self._paths = _Paths(fixed, partial)
        with self._paths:
            self.joint = trace_pair(pair, batch, num_particles)
        check_shapes(self.joint)
        fns = {name: site["fn"] for name, site in sample_sites(self.joint.guide, observed=False).items()}
        self.scored = frozenset(name for name, fn in fns.items() if fixed or not reparameterized(fn))
        self.followed = frozenset(name for name, fn in fns.items() if fn.has_rsample and not fixed)

    @property
    def log_w(self) -> Tensor:
        """`log p(x, z) - log q(z | x)`, `[K, B]`."""
        return log_weight(self.joint.log_p_terms(), self.joint.log_q_terms())

    def surrogate(
        self,
        model: Tensor,
        path: Tensor | None,
        score: Tensor | None = None,
        stuck: Collection[str] = (),
        log_p: Tensor | None = None,
        log_q: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """A scalar whose gradient is, in the mean over data points,

        `sum_k model_k d log p/d theta + path_k (d log w/dz dz/d phi - d log q_free/d phi) + score_k d log q_scored/d
        phi`.

        Args:
            model: `[K, B]`, the weights of log p at fixed z.
            path: `[K, B]`, the weights of log w along the followed latents, and of minus the score of all sites that
                are not stuck; None if no path is followed.
            score: `[K, B]`, the weights of the score of the scored sites.
            stuck: sites whose log q counts along the path alone.
            log_p: what to differentiate in place of `log p(x, z)`, `[K, B]`.
            log_q: the same for `log q` by site, but for the score.
        """
        log_p = sum_terms(self.joint.log_p_terms()) if log_p is None else log_p
        own_log_q = self.joint.log_q_terms()
        log_q = own_log_q if log_q is None else log_q
        if path is not None and path is not model:
            model = model.clamp(min=torch.finfo(model.dtype).eps ** 2)  # far below rounding; what follows divides by it
            self._paths.scale_into_model(path / model)
        total = model * log_p
        if path is not None:
            free = [term for name, term in log_q.items() if name not in stuck]
            along = self._paths.linearized([log_q[name] for name in stuck])
            for term in free + along:
                total = total - path * term
        if score is not None:
            for name in self.scored - self.followed:
                total = total + score * own_log_q[name]
            for name in self.scored & self.followed:
                site: Any = self.joint.guide.nodes[name]
                total = total + score * site["fn"].score_parts(site["value"].detach()).score_function
        return mean_over_data(total.sum(0))

    def check_scored(self, possible: bool, num_particles: int) -> None:
        """Refuses by name a site that needs the score function where that is not possible, or has no baseline."""
        for name in sorted(self.scored):
            fn = family(self.joint.guide.nodes[name]["fn"])
            if not possible:
                where = " for some of its arguments" if name in self.followed else ""
                raise ContractError(
                    f"guide site '{name}': found {fn}, which has no reparameterized gradient{where}, expected one that "
                    "has, as this estimator follows z(phi); use another gradient, VIMCO() or RWS()"
                )
            if num_particles == 1:
                raise ContractError(
                    f"guide site '{name}': found {fn} and one particle, expected at least two for the score function, "
                    "as particles are weighed against one another; use num_particles=2 or more; or EnumeratedELBO if "
                    "it is discrete with few values, or leave it out of the guide to have it summed out of the model"
                )


class _Paths(Messenger):
    """Keeps hold of the graph where it passes through the guide's latents: of each reparameterized draw.

    What the model sees of a draw is a view of its own. If `partial`, so is what the guide sees of it: a tensor that a
    flow does not know for its own draw.
    """

    def __init__(self, fixed: bool, partial: bool):
        super().__init__()
        self.fixed, self.partial = fixed, partial
        self._drawn: dict[str, Tensor] = {}
        self._in_model: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Message) -> None:
        name, value = str(msg["name"]), cast(Tensor, msg["value"])
        if msg["is_observed"] or site_is_subsample(msg) or not value.requires_grad:
            return
        if self.fixed:
            msg["value"] = value.detach()
        elif name not in self._drawn:
            msg["value"] = self._drawn[name] = value.view_as(value) if self.partial else value
        else:
            msg["value"] = self._in_model[name] = value.view_as(value)

    def linearized(self, log_q: list[Tensor]) -> list[Tensor]:
        """For each draw `<d log q/dz, z>`, `[K, B]`, with z alone to be differentiated: log q, at fixed parameters.

        The derivatives are partial ones: what reaches a draw is taken there, and goes on to no other draw.
        """
        log_q = [term for term in log_q if term.requires_grad]
        if not log_q or not self._drawn:
            return []
        draws = list(self._drawn.values())
        slopes: dict[int, Tensor] = {}

        def taken(index: int, slope: Tensor) -> Tensor:
            slopes[index] = slope.detach()
            return torch.zeros_like(slope)

        hooks = [z.register_hook(partial(taken, index)) for index, z in enumerate(draws)]
        torch.autograd.grad([term.sum() for term in log_q], draws, retain_graph=True, allow_unused=True)
        for hook in hooks:
            hook.remove()
        return [
            (slopes[i] * z).flatten(2).sum(-1) if z.dim() > 2 else slopes[i] * z
            for i, z in enumerate(draws)
            if i in slopes
        ]

    def scale_into_model(self, ratio: Tensor) -> None:
        """Multiplies, on the way back from the model to the guide, each particle's gradient by `ratio`, `[K, B]`."""

        def scale(gradient: Tensor) -> Tensor:
            return gradient * ratio.reshape(*ratio.shape, *(1,) * (gradient.dim() - ratio.dim()))

        for z in self._in_model.values():
            z.register_hook(scale)
