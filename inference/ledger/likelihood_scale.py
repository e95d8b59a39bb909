"""Whether a Gaussian likelihood is as wide as what it leaves unexplained."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ppvae.batches import Batch, num_rows
from ppvae.inference.runtime.chunks import over_data
from ppvae.pair import Pair
from ppvae.sites import sample_sites
from ppvae.tracing import trace_pair


@dataclass(frozen=True)
class LikelihoodScale:
    """What rescaling the standard deviation of an observed Gaussian site, by one number, would gain.

    With r the mean of `((x - mu) / sigma)^2` over its D dimensions, the data and the guide's draws, the best factor is
    `sqrt(r)`, and the ELBO rises by `D / 2 (r - 1 - log r)` nats with the guide as it is, or more if the guide is
    trained too.

    Attributes:
        factor: `sqrt(r)`; below 1 the likelihood is too wide.
        gain: nats per data point.
    """

    factor: float
    gain: float


def likelihood_scale(pair: Pair, batch: Batch, num_samples: int) -> dict[str, LikelihoodScale]:
    """For each observed site that is Gaussian, unless an exact summation ties discrete sites to it."""

    def measure(points: Batch, num_draws: int, at_once: int) -> dict[str, Tensor]:
        found = {}
        draws = min(num_draws, at_once)
        for name, site in sample_sites(trace_pair(pair, points, draws).model, observed=True).items():
            base: Any = site["fn"]
            while isinstance(base, Independent):
                base = base.base_dist
            if isinstance(base, Normal) and len(site["fn"].batch_shape) == 2:
                squares = ((site["value"] - base.loc) / base.scale).square()
                squares = squares.expand(draws, num_rows(points), *site["fn"].event_shape)
                squares = squares.reshape(draws, num_rows(points), -1).mean(0).double()
                found[name] = torch.stack([squares.mean(-1), torch.full_like(squares[:, 0], squares.shape[1])], -1)
        return found or {"": torch.zeros(num_rows(points))}

    result = {}
    for name, ratios in over_data(pair, batch, num_samples, measure, None).items():
        if name:
            r, num_dims = ratios.mean(0)
            result[name] = LikelihoodScale(r.sqrt().item(), (num_dims / 2 * (r - 1 - r.log())).item())
    return result
