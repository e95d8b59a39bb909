"""Where the guide puts each latent of a data point: the mean and the standard deviation of q(z | x)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from ppvae.arguments import checked
from ppvae.batches import Batch, num_rows
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
    if len(sites) > 1 or any(_formulas(site["fn"]) is None for site in sites.values()):
        sites = _sites(pair, batch, num_samples)
    found = {name: _given_draws(site, num_rows(batch)) for name, site in sites.items()}
    return {name: torch.stack(_total(mean, variance)) for name, (mean, variance) in found.items()}


def _sites(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, dict[str, Any]]:
    return sample_sites(run(pair, "guide", batch, num_particles), observed=False)


def _total(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from those given each of K draws, `[K, ...]`; where all agree, these."""
    if torch.equal(mean, mean[:1].expand_as(mean)) and torch.equal(variance, variance[:1].expand_as(variance)):
        return mean[0], variance[0].sqrt()
    between = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])
    return mean.mean(0), (variance.mean(0) + between).sqrt()


def _given_draws(site: Mapping[str, Any], num: int) -> Tensor:
    """Mean and variance of a site given what the guide drew before it, `[2, K, B, *event]`; K is 1 if there is one."""
    value = site["value"]
    both = torch.stack(torch.broadcast_tensors(*(_formulas(site["fn"]) or (value, torch.zeros_like(value)))))
    num_leading = len(site["fn"].batch_shape)
    leading, own = both.shape[1 : 1 + num_leading], both.shape[1 + num_leading :]
    aligned = both.reshape(2, *(1,) * (2 - num_leading), *leading, *own)
    return aligned.expand(2, -1, num, *own)


def _formulas(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of a distribution; None if it has no formula for them, as they are then those of its draw."""
    *_, inner = wrapped(fn)
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        return None
    if isinstance(inner, Categorical) and mean.isnan().any():  # torch's: its values are names
        return inner.probs, inner.probs * (1.0 - inner.probs)
    return mean, variance
