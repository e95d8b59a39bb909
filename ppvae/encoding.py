"""Where the guide puts each latent of a data point: the mean and the standard deviation of q(z | x)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from ppvae import angles
from ppvae.arguments import checked
from ppvae.batches import Batch, num_rows
from ppvae.kinds import is_circular
from ppvae.model_and_guide import ModelAndGuide
from ppvae.particles import run
from ppvae.sites import nan_where_masked, presence, sample_sites, wrapped


@checked
@dataclass(frozen=True, repr=False)
class Encoding:
    """The moments of a latent's posterior in the guide, per data point.

    Attributes:
        mean: `E_q[z | x]`, `[B, *event]`; of a Categorical, the probabilities of its classes, `[B, *event, classes]`.
        std: the square root of each entry's variance, of the same shape.

    Both are NaN for data points where the latent is masked, and so not there. Where that depends on other latents,
    they are of the draws that have it.

    Of angles both are circular: the direction of `E_q[(cos z, sin z)]`, and `sqrt(-2 log R)` with R its length.
    """

    mean: Tensor
    std: Tensor

    def __repr__(self) -> str:
        return f"Encoding(mean and std, each {list(self.mean.shape)})"


def moments(pair: ModelAndGuide, batch: Batch, num_samples: int) -> dict[str, Tensor]:
    """Mean and standard deviation of each latent of the guide, `[2, B, *event]`.

    As its distribution has them where it depends on no draw. Those of a site that depends on other latents, or whose
    distribution has no formula for them, as a flow has none, are by the laws of total expectation and variance over
    `num_samples` draws. A few draws would not tell which depend on others: of discrete ones, all may be the same.
    """
    sites = _sites(pair, batch, 1)
    if len(sites) > 1 or any(_is_drawn(site["fn"]) for site in sites.values()):
        sites = _sites(pair, batch, num_samples)
    return {name: torch.stack(_total(site, num_rows(batch))) for name, site in sites.items()}


def present_latents(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, Tensor]:
    """Draws from the guide by site, `[K, B, *event]`, NaN where a latent is masked, and so not there."""
    shape = (num_particles, num_rows(batch))
    return {
        name: nan_where_masked(site, site["value"]).expand(*shape, *site["fn"].event_shape)
        for name, site in _sites(pair, batch, num_particles).items()
    }


def _sites(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, dict[str, Any]]:
    return sample_sites(run(pair, "guide", batch, num_particles), observed=False)


def _total(site: Mapping[str, Any], num: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a site from those given what the guide drew before it, K times, `[B, *event]`."""
    fn, value = site["fn"], site["value"]
    if is_circular(fn):
        mean, _ = _averaged(site, num, angles.resultant(fn))
        return angles.direction(mean), angles.spread(mean)
    given = _formulas(fn) or (value, torch.zeros_like(value))
    mean, variance = _averaged(site, num, *torch.broadcast_tensors(*given))
    return mean, variance.sqrt()


def _averaged(site: Mapping[str, Any], num: int, mean: Tensor, variance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance over those draws that have the site; NaN if none has."""
    fn = site["fn"]
    masks = presence(site)
    there = torch.ones((), dtype=torch.bool) if masks is None else masks
    there = there.to(mean.device).expand(*fn.batch_shape, *fn.event_shape)
    there = there.reshape(*there.shape, *(1,) * (mean.dim() - there.dim()))
    found = [torch.where(there, t, 0) for t in (mean, torch.zeros_like(mean) if variance is None else variance)]
    mean, variance, there = (_aligned(fn, t, num) for t in (*found, there))
    if all(torch.equal(t, t[:1].expand_as(t)) for t in (mean, variance, there)):
        mean, variance, there = mean[:1], variance[:1], there[:1]
    num_there = there.sum(0)
    average = mean.sum(0) / num_there
    between = torch.where(there, (mean - average).square(), 0).sum(0) / (num_there - 1).clamp(min=1)
    return average, variance.sum(0) / num_there + between


def _aligned(fn: Any, values: Tensor, num: int) -> Tensor:
    """What a distribution has for each of its batch, `[K, B, *]`; K is 1 if it is one for all draws."""
    num_leading = len(fn.batch_shape)
    own = values.shape[num_leading:]
    return values.reshape(*(1,) * (2 - num_leading), *values.shape).expand(-1, num, *own)


def _is_drawn(fn: Any) -> bool:
    """Whether the moments are those of draws, as there are no formulas."""
    return angles.is_drawn(fn) if is_circular(fn) else _formulas(fn) is None


def _formulas(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of a distribution; None if it has no formula for them."""
    *_, inner = wrapped(fn)
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        return None
    if isinstance(inner, Categorical) and mean.isnan().any():  # torch's: its values are names
        return inner.probs, inner.probs * (1.0 - inner.probs)
    return mean, variance
