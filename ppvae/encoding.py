"""Where the guide puts each latent of a data point: the mean and the standard deviation of q(z | x)."""

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
    `num_samples` draws.
    """
    found = _given_draws(pair, batch, 2)
    if any(not torch.equal(t[:, 0], t[:, -1]) for t in found.values()):
        found = _given_draws(pair, batch, num_samples)
    return {name: torch.stack(_total(mean, variance)) for name, (mean, variance) in found.items()}


def _total(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from those given each of K draws, `[K, ...]`."""
    between = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])
    return mean.mean(0), (variance.mean(0) + between).sqrt()


def _given_draws(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, Tensor]:
    """Mean and variance of each site given what the guide drew before it, `[2, K, B, *event]`; K is 1 if all agree."""
    found = {}
    for name, site in sample_sites(run(pair, "guide", batch, num_particles), observed=False).items():
        both = torch.stack(torch.broadcast_tensors(*_moments(site["fn"], site["value"])))
        num_leading = len(site["fn"].batch_shape)
        leading, own = both.shape[1 : 1 + num_leading], both.shape[1 + num_leading :]
        aligned = both.reshape(2, *(1,) * (2 - num_leading), *leading, *own)
        found[name] = aligned.expand(2, -1, num_rows(batch), *own)
    return found


def _moments(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a distribution; if it has no formula for them, those of its draw, which is then known."""
    *_, inner = wrapped(fn)
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        return value, torch.zeros_like(value)
    if isinstance(inner, Categorical) and mean.isnan().any():  # torch's: its values are names
        return inner.probs, inner.probs * (1.0 - inner.probs)
    return mean, variance
