"""All values that discrete latents can have together, as particles: where they are few, log p(x) is a sum over them."""

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.model_and_guide import ModelAndGuide
from ppvae.particles import run
from ppvae.precise_draws import PreciseDraws
from ppvae.sites import log_prob_terms, log_probability_of_values, sample_sites, wrapped
from ppvae.weights import sum_terms

MOST = 10_000
"""Configurations above which a sum over all of them is not tried."""


def log_prob_by_configurations(pair: ModelAndGuide, batch: Batch) -> Tensor:
    """`log p(x) = log sum_c p(x, c)` over all configurations c of the latents, `[B]`, in nats.

    For latents of several discrete entries, as `Categorical(...).to_event(1)` has, which Pyro does not enumerate, and
    for models that do not run enumerated. The number of values may not depend on other latents.

    Args:
        pair: whose model is summed over.
        batch: B data points.

    Raises:
        NotImplementedError: a latent is continuous, or there are more than 10,000 configurations.

    Example:
        >>> from ppvae import Pair
        >>> import pyro, pyro.distributions as dist
        >>> class Coins(Pair):
        ...     def model(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             coins = pyro.sample("coins", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
        ...             pyro.sample("x", dist.Normal(coins.sum(-1), 1.0), obs=x)
        >>> log_p = log_prob_by_configurations(Coins(), torch.zeros(1))
        >>> likelihood = dist.Normal(torch.arange(3.0), 1.0).log_prob(torch.tensor(0.0)).exp()
        >>> torch.allclose(log_p, (likelihood @ torch.tensor([0.25, 0.5, 0.25])).log())
        True
    """
    with PreciseDraws(pair):
        sites = sample_sites(run(pair, "model", batch, 1), observed=False)
    values = {name: _values_of_an_entry(name, site["fn"]) for name, site in sites.items()}
    sizes = [len(own) for own, entries in values.values() for _ in range(entries.numel())]
    if (total := math.prod(sizes)) > MOST:
        raise NotImplementedError(f"latent sites {list(values)} have {total} configurations, more than {MOST}")
    index = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(total, -1)
    places = index.split([entries.numel() for _, entries in values.values()], 1)
    num = num_rows(batch)
    latents = {
        name: own[place.to(own.device)].reshape(total, 1, *entries, *own.shape[1:]).repeat_interleave(num, 1)
        for (name, (own, entries)), place in zip(values.items(), places, strict=True)
    }
    with poutine.condition(data=latents):
        trace = run(pair, "model", batch, total)
    terms = log_prob_terms(trace)
    terms |= {name: log_probability_of_values(trace.nodes[name]) for name in latents}  # masked ones sum to one, too
    return sum_terms(terms).expand(total, num).logsumexp(0)


def _values_of_an_entry(name: str, fn: Any) -> tuple[Tensor, torch.Size]:
    """The values that each entry of a site can have, `[S, *event of an entry]`, and the shape of its entries."""
    *_, inner = wrapped(fn)
    if not inner.has_enumerate_support:
        raise NotImplementedError(f"latent site '{name}': {type(inner).__name__} has no finite support to sum over")
    own = inner.enumerate_support(expand=False)
    return own.reshape(len(own), *inner.event_shape), fn.event_shape[: len(fn.event_shape) - len(inner.event_shape)]
