"""Whether AIS takes a model's latents as they are, or non-centered: as `(z - loc) / scale`, given those before them.

Where one latent follows another closely, or its scale varies with it (a funnel), no step size fits all of the posterior
as it is, but one fits the non-centered one, as long as the data say little about the latent. Where they say much, it is
the other way round. So a short pilot chooses for each data point, by draws of its own.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.coordinates import location_and_scale
from ppvae.devices import device_of
from ppvae.inference.runtime.isolation import own_randomness
from ppvae.latent_view import LatentView
from ppvae.pair import Pair
from ppvae.sites import sample_sites
from ppvae.tracing import trace_model

DRAWS = 64
LEAST_SPREAD, LEAST_RATIO = 0.5, 10.0
"""Of the log scale of a site over draws from the prior; and of the variance of its location to its own. Below both, it
does not follow closely."""

LEAST_GAIN = 0.3
"""Nats by which the pilot must be better for a data point's view to be non-centered."""


def where_possible(view: LatentView, pair: Pair, batch: Batch) -> LatentView:
    """The view, with sites that follow others closely non-centered. No generator moves.

    Args:
        view: of the pair, as it is.
        pair: the model and guide.
        batch: a few data points.
    """
    if len(view.sites) < 2:
        return view
    with own_randomness((0,), device_of(pair)):
        sites = closely_following(pair, batch)
        return LatentView(pair, batch, view.start, sites) if sites else view


def closely_following(pair: Pair, batch: Batch) -> frozenset[str]:
    """Sites of the model whose scale varies with the latents before them, or whose location does by more than that."""
    found = set()
    joint = trace_model(pair, batch, num_particles=DRAWS)
    for name, site in sample_sites(joint.model, observed=False).items():
        summed_over = len(site["fn"].batch_shape) > len(joint.shape)  # its location is one for each discrete value
        if not summed_over and (standard := location_and_scale(site["fn"])) is not None:
            loc, scale = (t.expand(joint.shape + site["fn"].event_shape) for t in standard)
            spread, ratio = scale.log().std(0), loc.var(0) / scale.square().mean(0)
            if (spread > LEAST_SPREAD).any() or (ratio > LEAST_RATIO).any():
                found.add(name)
    return frozenset(found)


def better_noncentered(pair: Pair, num: int, pilot: Callable[[Tensor], Tensor]) -> Tensor:
    """For which of B data points AIS is better in the non-centered view, a mask `[B]`. No generator moves.

    It is the better, the larger `2 log mean_k sqrt(w_k)`: a bound that rises to log p(x) as the weights become even
    (Renyi's of order 1/2: Li & Turner 2016, arXiv:1602.02311). Chains that are stuck far below count as lost, no more.

    Args:
        pair: the model and guide.
        num: B.
        pilot: log weights `[K, B]` of a short AIS in a view that is non-centered where a mask says so.
    """
    device = device_of(pair)
    everywhere = torch.ones(num, dtype=torch.bool, device=device)
    with own_randomness((1,), device):
        as_it_is, noncentered = (_bound(pilot(at)) for at in (~everywhere, everywhere))
    return noncentered - as_it_is > LEAST_GAIN


def _bound(log_weight: Tensor) -> Tensor:
    return 2 * ((log_weight / 2).logsumexp(0) - math.log(len(log_weight)))
