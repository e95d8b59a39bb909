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
from ppvae.sites import sample_sites, wrapped


@checked
@dataclass(frozen=True, repr=False)
class Encoding:
    """The moments of a latent's posterior in the guide, per data point.

    Attributes:
        mean: `E_q[z | x]`, `[B, *event]`; of a Categorical, the probabilities of its classes, `[B, *event, classes]`.
        std: the square root of each entry's variance, of the same shape.

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


def _sites(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, dict[str, Any]]:
    return sample_sites(run(pair, "guide", batch, num_particles), observed=False)


def _total(site: Mapping[str, Any], num: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a site from those given what the guide drew before it, K times, `[B, *event]`."""
    fn, value = site["fn"], site["value"]
    if is_circular(fn):
        mean = _aligned(fn, angles.resultant(fn), num).mean(0)
        return angles.direction(mean), angles.spread(mean)
    given = _formulas(fn) or (value, torch.zeros_like(value))
    mean, variance = (_aligned(fn, t, num) for t in torch.broadcast_tensors(*given))
    if all(torch.equal(t, t[:1].expand_as(t)) for t in (mean, variance)):
        return mean[0], variance[0].sqrt()
    between = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])
    return mean.mean(0), (variance.mean(0) + between).sqrt()


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
