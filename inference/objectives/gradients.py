"""Gradients of functions of the log weights: which parts of the graph an estimator uses, and with what weights.

`log w = log p(x, z; theta) - log q(z | x; phi)` with `z = z(phi, noise)` depends on the parameters in three ways:
through log p at fixed z, through log q at fixed z (the *score*), and through z (the *path*). Estimators differ in the
weights they give to each. This module keeps the three apart in one run of a pair, for any number of latent sites, each
of which may depend on those before it, and for parameters that model and guide share.
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

from ppvae.batches import Batch
from ppvae.contract import check_shapes
from ppvae.devices import gpus
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.kinds import is_given, is_point
from ppvae.mode import mode
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.refusals import ContractError, family
from ppvae.sites import sample_sites
from ppvae.splitting import SplitDistribution
from ppvae.tracing import trace_pair
from ppvae.weights import log_weight, sum_terms


def reparameterized(fn: Any) -> bool:
    """Whether a path leads from all of a distribution's arguments to its draws.

    A Pyro distribution that is only partly reparameterized overrides `score_parts` for the rest.
    """
    while isinstance(fn, MaskedDistribution | ExpandedDistribution | SplitDistribution):
        fn = fn.base_dist
    whole = dist.Distribution.score_parts
    return fn.has_rsample and getattr(type(fn), "score_parts", whole) is whole


def has_scored_sites(pair: Pair, batch: Batch) -> bool:
    """Whether a guide site is not, or only partly, reparameterized; found by a run on two rows without side effects."""
    with mode(pair, training=False), torch.random.fork_rng(gpus(pair)), torch.no_grad():
        sites = sample_sites(run(pair, "guide", rows_or_all(pair, batch, slice(2)), 1), observed=False)
    return not all(reparameterized(site["fn"]) for site in sites.values())


class Draw:
    """One run of a pair with K draws from the guide for each data point, and the surrogates made from it.

    Args:
        pair: the model and guide.
        batch: B data points.
        num_particles: K.
        fixed: hold all latents fixed and follow no path, as the score function does.
        partial: whether a followed site's log q will be differentiated along its own draw alone, as for `stuck` sites.
            That needs a density computed from the draw; otherwise a flow returns the one it cached when it drew.

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
            log_q: the same for `log q`, by site; the score keeps the run's own.
        """
        log_p = sum_terms(self.joint.log_p_terms()) if log_p is None else log_p
        own_log_q = self.joint.log_q_terms()
        log_q = own_log_q if log_q is None else log_q
        if path is not None and path is not model:
            model = model.clamp(min=torch.finfo(model.dtype).eps ** 2)  # far below rounding; avoids division by zero
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

    def check_deltas(self) -> None:
        """Refuses by name a Delta where log q is to be differentiated by its value, or at a fixed one."""
        for name in sorted(self.scored | (self.followed if self._paths.partial else frozenset())):
            site: Any = self.joint.guide.nodes[name]
            if not is_given(site["fn"]):
                continue
            if not is_point(site["fn"]):
                raise ContractError(
                    f"guide site '{name}': found Delta with a log_density, which is a number and no function of the "
                    "value, expected a density whose slope and score are known; use ELBO() or IWAE(), whose gradient "
                    "is 'reparameterized', or take a distribution in place of the Delta"
                )
            if name in self.scored:
                raise ContractError(
                    f"guide site '{name}': found Delta, whose score is zero, expected a path to follow to its point; "
                    "use ELBO() or IWAE(), whose gradient is 'reparameterized'"
                )

    def check_scored(self, possible: bool, num_particles: int) -> None:
        """Refuses by name a site that needs the score function where that is zero, impossible, or has no baseline."""
        self.check_deltas()
        for name in sorted(self.scored):
            site: Any = self.joint.guide.nodes[name]
            fn = family(site["fn"])
            if not possible:
                where = " for some of its arguments" if name in self.followed else ""
                raise ContractError(
                    f"guide site '{name}': found {fn}, which has no reparameterized gradient{where}, expected one that "
                    "does, as this estimator follows z(phi); use another gradient, VIMCO() or RWS()"
                )
            if num_particles == 1:
                raise ContractError(
                    f"guide site '{name}': found {fn} and one particle, expected at least two for the score function, "
                    "as particles are weighed against one another; use num_particles=2 or more; or EnumeratedELBO if "
                    "it is discrete with few values, or leave it out of the guide to have it summed out of the model"
                )


class _Paths(Messenger):
    """Keeps each reparameterized draw of the guide, where the graph passes through its latents.

    The model sees its own view of a draw. If `partial`, so does the guide: a tensor that a flow does not recognize as
    its own draw.
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
        """For each draw `<d log q/dz, z>`, `[K, B]`, differentiable in z alone: log q linearized, parameters fixed.

        The derivatives are partial: a gradient that reaches a draw stops there and goes on to no other draw.
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
        """In the backward pass from model to guide, multiplies each particle's gradient by `ratio`, `[K, B]`."""

        def scale(gradient: Tensor) -> Tensor:
            return gradient * ratio.reshape(*ratio.shape, *(1,) * (gradient.dim() - ratio.dim()))

        for z in self._in_model.values():
            z.register_hook(scale)
