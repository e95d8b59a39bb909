"""Closed-form KL(q || p): where distributions have one, and where a guide's dependencies let it be used."""

import math
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies, is_sample_site
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import TransformedDistribution, kl_divergence as torch_kl_divergence

from ppvae.arguments import checked
from ppvae.batches import Batch, call, repeated
from ppvae.devices import gpus
from ppvae.mode import mode
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import family
from ppvae.rules import Instance
from ppvae.sites import log_prob_terms, sample_sites, without_row_mask
from ppvae.tracing import Joint, trace_pair

ROWS, DRAWS = 7, 10
"""Data points, and draws for each of them, on which it is found out what depends on what."""
SAME = 1e-6
Sites: TypeAlias = dict[str, dict[str, Any]]

AnyDistribution = Annotated[Any, Instance(torch.distributions.Distribution)]


@checked
def kl_divergence(q: AnyDistribution, p: AnyDistribution) -> Tensor:
    """`KL(q || p)` in closed form, in nats, over the batch shape.

    PyTorch's and Pyro's formulas, and two that neither has: a Gaussian q with correlations, of full or low rank,
    against a factorized one, `-H(q) - sum_j E_q log N(z_j; m_j, s_j^2)`; against the standard normal, for q with mean m
    and covariance S, that is `(tr S + m'm - D - log det S) / 2`. And a factorized Gaussian q against one with
    correlations. That of two transformed distributions is that of their bases, where the transforms lose nothing; what
    `FoldedDistribution` makes of them has no closed form.

    Raises:
        NotImplementedError: no closed form is known.

    Example:
        >>> import torch
        >>> p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> kl_divergence(dist.MultivariateNormal(torch.ones(2), torch.eye(2)), p)
        tensor(1.)
    """
    if isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal) and _is_factorized_normal(p):
        loc, scale = p.base_dist.loc, p.base_dist.scale
        squares = ((q.mean - loc).square() + q.variance) / scale.square()
        return (squares / 2 + scale.log() + math.log(2 * math.pi) / 2).sum(-1) - q.entropy()
    if isinstance(p, dist.MultivariateNormal) and _is_factorized_normal(q):
        q = dist.MultivariateNormal(q.base_dist.loc, scale_tril=q.base_dist.scale.diag_embed())
    for fn in (q, p):
        if _folds(fn):
            raise NotImplementedError(f"{family(fn)} has two values of its base for each of its own")
    return torch_kl_divergence(q, p)


def site_kl(q: Mapping[str, Any], p: Mapping[str, Any]) -> Tensor:
    """The closed-form KL of a latent's guide site from its model site, zero where it is masked.

    Raises:
        NotImplementedError: no closed form is known, or the latent is masked in only one of the two.
    """
    (q_fn, q_masks), (p_fn, p_masks) = without_row_mask(q), without_row_mask(p)
    if bool(q_masks) != bool(p_masks):
        raise NotImplementedError("it is masked in the guide or in the model alone")
    kl = kl_divergence(q_fn, p_fn)
    for mask in q_masks + p_masks:
        kl = torch.where(mask, kl, 0.0)
    return kl


def _folds(fn: Any) -> bool:
    """Whether transforms in it are not one to one; of a half distribution the lost sign says nothing."""
    while not isinstance(fn, dist.HalfNormal | dist.HalfCauchy) and hasattr(fn, "base_dist"):
        if isinstance(fn, TransformedDistribution) and not all(t.bijective for t in fn.transforms):
            return True
        fn = fn.base_dist
    return False


def _is_factorized_normal(p: Any) -> bool:
    return isinstance(p, dist.Independent) and isinstance(p.base_dist, dist.Normal) and p.reinterpreted_batch_ndims == 1


@checked
def separable_sites(pair: Pair, batch: Batch) -> frozenset[str]:
    """The latent sites whose `E[log q - log p]` may be replaced by the closed-form KL given their parents.

    Given its parents in the guide, a site is independent of all but its descendants (the local Markov property). So
    `KL(q(z | parents) || p(z | parents))` has the right expectation if and only if no parent of z in the *model* is a
    descendant of z in the *guide*. For example, with q(z_1 | x) q(z_2 | x) the KL of each layer is analytic; with
    q(z_1 | x) q(z_2 | z_1) that of z_1 is not, because p(z_1 | z_2) depends on z_1's child.

    A model parent that the guide lacks (a discrete site to be summed out) rules the closed form out too.
    """
    return separable(pair, pair.checked(batch))


def separable(pair: Pair, batch: Batch) -> frozenset[str]:
    """`separable_sites` of a pair that was checked, on a batch of its own: what a step asks."""
    try:
        with mode(pair, training=False):  # to keep these few rows out of batch norm's running statistics
            few = rows_or_all(pair, batch, slice(ROWS))
            with torch.no_grad(), torch.random.fork_rng(gpus(pair)):
                found = separable_in(trace_pair(pair, few, 1))
            if found is not None:
                return found
            few = repeated(few, DRAWS) if pair.own_rows is None else few
            guide, model = (_parents(function, few) for function in (pair.guide, pair.model))
    except NotImplementedError:  # a prior without draws, such as ImproperUniform
        return frozenset()
    ancestors: dict[str, set[str]] = {}
    for site, parents in guide.items():  # in sampling order, so that parents come first
        ancestors[site] = parents.union(*(ancestors[parent] for parent in parents))
    return frozenset(
        site for site in guide if all(parent in guide and site not in ancestors[parent] for parent in model[site])
    )


def separable_in(joint: Joint) -> frozenset[str] | None:
    """`separable_sites`, inferred from the order of a run's sites; None where the order does not settle it.

    A site's parents come before it, and its descendants after it. So if the sites that precede a site in the model all
    precede it in the guide too, its closed form is valid whatever the dependencies. A site that depends on one that is
    summed out shows it by its shape.
    """
    drawn, latent = (sample_sites(trace, observed=False) for trace in (joint.guide, joint.model))
    if not all(is_sample_site(site) for site in drawn.values()):
        return None  # a Delta, through which dependencies pass unseen
    summed_out = {name for name in drawn if len(latent[name]["fn"].batch_shape) > len(joint.shape)}
    place, latest = {name: i for i, name in enumerate(drawn)}, -1
    for name in latent:
        if name in drawn and name not in summed_out and place[name] < latest:
            return None
        latest = max(latest, place.get(name, -1))
    return frozenset(drawn.keys() - summed_out)


def _parents(function: Callable, batch: Batch) -> dict[str, set[str]]:
    """The latents on which each site of a model or a guide depends, given all others before it.

    Pyro follows values through torch's functions. It loses those that are written into a part of a tensor, or leave
    torch; so what it takes for independent of some latents is evaluated again with other values of these.
    """
    args, kwargs = ((), batch) if isinstance(batch, dict) else (batch if isinstance(batch, tuple) else (batch,), {})
    found = get_dependencies(function, args, kwargs)["prior_dependencies"]  # type: ignore[arg-type]
    parents = {site: set(own) - {site} for site, own in found.items()}  # type: ignore[attr-defined]
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad(), pyro.validation_enabled(False):
        drawn, others = (_drawn(function, batch, parents) for _ in range(2))
        for number, site in enumerate(drawn):
            unlike = set(list(drawn)[:number]) - parents[site]
            if unlike and not _is_same(function, batch, site, drawn, drawn | {name: others[name] for name in unlike}):
                parents[site] |= unlike
    return parents


def _drawn(function: Callable, batch: Batch, names: Container[str]) -> Sites:
    """The latents of these names, in the order in which a run draws them."""
    with poutine.trace() as tracer:
        call(function, batch)
    return {name: site for name, site in sample_sites(tracer.trace, observed=False).items() if name in names}


def _is_same(function: Callable, batch: Batch, name: str, *both: Sites) -> bool:
    """Whether a site's log probability is the same at two choices of what comes before it."""
    found = []
    for sites in both:
        values = Trace()
        for each, site in sites.items():
            values.add_node(each, **site)
        try:
            with poutine.trace() as tracer, poutine.replay(trace=values):
                call(function, batch)
            found.append(log_prob_terms(tracer.trace, without=tracer.trace.nodes.keys() - {name})[name])
        except Exception:  # of the user's code, which may raise anything
            return False
    one, other = found
    return one.shape == other.shape and torch.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)
