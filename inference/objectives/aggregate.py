"""The aggregate posterior `q(z) = mean_n q(z | x_n)` of a guide of independent Gaussians, and its margins."""

import math
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.pair import Pair
from ppvae.particles import run
from ppvae.refusals import ContractError, family
from ppvae.sites import presence, sample_sites


class Posteriors(NamedTuple):
    """q(z | x) of B data points, and draws."""

    loc: Tensor  # [B, D]
    scale: Tensor  # [B, D]
    z: Tensor  # [K, B, D]


def posteriors(pair: Pair, batch: Batch, num_particles: int) -> Posteriors:
    """A pair's posteriors, by a run of its guide.

    Raises:
        ppvae.ContractError: as `only_site`; and if it is no Gaussian of independent numbers.
    """
    trace = run(pair, "guide", batch, num_particles)
    _, site = only_site(pair, trace)
    shape = (num_particles, num_rows(batch), *site["fn"].event_shape)
    loc, scale = (t.expand(shape)[0] for t in (site["fn"].mean, site["fn"].stddev))
    return Posteriors(loc, scale, site["value"].expand(shape))


def only_site(pair: Pair, guide: Trace) -> tuple[str, Any]:
    """The name of a guide's latent site, and the site.

    Raises:
        ppvae.ContractError: it has none, or several, or one that is no Gaussian of independent numbers, or is masked
            for some data points.
    """
    sites = sample_sites(guide)
    fns: list[Any] = [site["fn"] for site in sites.values()]
    if len(fns) != 1 or not is_independent_normal(fns[0]):
        kinds = zip(sites, fns, strict=True)
        said = ", ".join(f"'{name}' ({family(fn)} of shape {list(fn.event_shape)})" for name, fn in kinds)
        raise ContractError(
            f"{type(pair).__name__}.guide: found the latent sites {said or 'none'}, expected one, with independent "
            "Gaussian numbers, Normal(...).to_event(1), as only then are the densities of q(z) and of its single "
            "dimensions known; use ELBO(), or a diagonal guide"
        )
    name, site = next(iter(sites.items()))
    if (there := presence(site)) is not None and not there.all():
        raise ContractError(
            f"guide site '{name}': found masked for some data points, expected there for all, as q(z) is a mean "
            "over the data; leave these out"
        )
    return name, site


def is_independent_normal(fn: Any) -> bool:
    """Whether a distribution is Gaussian, of a vector of independent numbers."""
    return family(fn) == "Normal" and len(fn.event_shape) == 1


def log_aggregate(found: Posteriors, log_shares: Tensor) -> tuple[Tensor, Tensor]:
    """`log q(z)`, `[K, B]`, and `log q(z_j)`, `[K, B, D]`, at the draws.

    Args:
        found: the posteriors.
        log_shares: of each data point's posterior (columns) at the draws of each (rows), `[B, B]`.
    """
    standard = (found.z.unsqueeze(-2) - found.loc) / found.scale
    of_each = -standard.square() / 2 - found.scale.log() - math.log(2 * math.pi) / 2  # [K, B, B, D]
    whole = (of_each.sum(-1) + log_shares).logsumexp(-1)
    return whole, (of_each + log_shares.unsqueeze(-1)).logsumexp(-2)


def stratified_shares(weights: Tensor, num_data: int) -> Tensor:
    """Logs of the shares with which the posteriors of B data points stand for those of N, `[B, B]`.

    A data point's own posterior counts for itself, by 1 / N times its weight, of mean one; the others stand for all
    others. So the density of q(z) at a draw is unbiased over minibatches of equal weights; its log is biased low.

    Source: Chen et al. 2018 (arXiv:1802.04942), appendix C.2, where one of the others stands for all the rest.

    Args:
        weights: of the B data points, `[B]`, with sum one.
        num_data: N.
    """
    num = len(weights)
    own = torch.eye(num, dtype=torch.bool, device=weights.device)
    if num == 1:
        return torch.zeros_like(own, dtype=weights.dtype)
    others = weights.expand(num, num).masked_fill(own, 0.0)
    of_itself = (weights * num / num_data).unsqueeze(1)
    of_all_others = others.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (others / of_all_others * (1 - of_itself) + own * of_itself).log()
