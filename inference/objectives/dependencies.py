"""What depends on what in a guide and a model, and so where a closed-form KL may take the place of draws."""

from collections.abc import Callable, Container
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies, is_sample_site
from pyro.poutine import Trace

from ppvae.arguments import checked
from ppvae.batches import Batch, call, repeated
from ppvae.conversion import to_pair
from ppvae.devices import gpus
from ppvae.mode import mode
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.sites import log_prob_terms, sample_sites
from ppvae.tracing import Joint, trace_pair

ROWS, DRAWS = 7, 10
"""Data points, and draws for each of them, on which it is found out what depends on what."""
SAME = 1e-6
Sites: TypeAlias = dict[str, dict[str, Any]]


@checked
def separable_sites(pair: Pair, batch: Batch) -> frozenset[str]:
    """The latent sites whose `E[log q - log p]` may be replaced by the closed-form KL given their parents.

    Given its parents in the guide, a site is independent of all but its descendants (the local Markov property). So
    `KL(q(z | parents) || p(z | parents))` has the right expectation if and only if no parent of z in the *model* is a
    descendant of z in the *guide*. For example, with q(z_1 | x) q(z_2 | x) the KL of each layer is analytic; with
    q(z_1 | x) q(z_2 | z_1) that of z_1 is not, because p(z_1 | z_2) depends on z_1's child.

    A model parent that the guide lacks (a discrete site to be summed out) rules the closed form out too.
    """
    return separable(pair, to_pair(rows_or_all(pair, pair.checked(batch), slice(ROWS)), pair))


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
    found = call(lambda *args, **kwargs: get_dependencies(function, args, kwargs), batch)["prior_dependencies"]
    parents = {site: set(own) - {site} for site, own in found.items()}
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
