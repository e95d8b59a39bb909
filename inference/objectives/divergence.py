"""Closed-form KL(q || p), where distributions have one."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import ExponentialFamily, TransformedDistribution, kl_divergence as torch_kl_divergence

from ppvae.arguments import checked
from ppvae.internals import kl_formula
from ppvae.kinds import innermost
from ppvae.refusals import family
from ppvae.rules import Instance
from ppvae.sites import without_row_mask

AnyDistribution = Annotated[Any, Instance(torch.distributions.Distribution)]


@checked
def kl_divergence(q: AnyDistribution, p: AnyDistribution) -> Tensor:
    """`KL(q || p)` in closed form, in nats, over the batch shape.

    PyTorch's and Pyro's formulas, and two that neither has: a Gaussian q with correlations, of full or low rank,
    against a factorized one, `-H(q) - sum_j E_q log N(z_j; m_j, s_j^2)`; against the standard normal, for q with mean m
    and covariance S, that is `(tr S + m'm - D - log det S) / 2`. And a factorized Gaussian q against one with
    correlations. That of two transformed distributions is that of their bases, where the transforms lose nothing; what
    `FoldedDistribution` makes of them has no closed form. Nor has an exponential family of which torch has none of its
    own (Wishart's), as its formula for all of them has no gradient.

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
    if _is_generic(q, p):
        raise NotImplementedError(f"torch's formula for {family(q)} has no gradient for the guide")
    if isinstance(innermost(q), dist.ContinuousBernoulli) and isinstance(innermost(p), dist.Uniform):
        raise NotImplementedError("torch's formula is infinite on the interval from 0 to 1, too")
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


def _is_generic(q: Any, p: Any) -> bool:
    """Whether torch has but its formula for any exponential family, which holds q's arguments fixed."""
    while hasattr(q, "base_dist") and hasattr(p, "base_dist"):
        q, p = q.base_dist, p.base_dist
    return isinstance(q, ExponentialFamily) and kl_formula(type(q), type(p)) is kl_formula(ExponentialFamily)


def _is_factorized_normal(p: Any) -> bool:
    return isinstance(p, dist.Independent) and isinstance(p.base_dist, dist.Normal) and p.reinterpreted_batch_ndims == 1
