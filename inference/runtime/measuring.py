"""The frame of every measurement: checked data, a pair in evaluation mode, finite results."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, num_rows, tensors
from ppvae.contract import first_bad_row
from ppvae.conversion import to_pair
from ppvae.devices import device_of, gpus
from ppvae.explanations import into_support
from ppvae.inference.runtime.chunks import evaluating, over_data, sizes
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.runtime.isolation import own_randomness
from ppvae.inference.runtime.records import EvidenceUndefined
from ppvae.kinds import image_of, is_discrete, is_point
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.sites import data_sites, handler_scales, sample_sites
from ppvae.supports import refuse_fixed, refuse_unlike
from ppvae.tracing import Joint, trace_pair
from ppvae.weights import sum_terms

LATENTS = 100
"""Draws under one of which a data point must be inside the likelihood's support, for this to be worth measuring."""


@contextmanager
def measuring(pair: Pair, data: Any, seed: int | None) -> Iterator[Batch]:
    """Checks the pair and the data, and yields the data with the pair in evaluation mode."""
    if pair.evidence_undefined:
        raise EvidenceUndefined(f"{type(pair).__name__} has no evidence: {pair.evidence_undefined}")
    batch = pair.checked(data)
    with evaluating(pair, seed):
        processes().agree(lambda: {"log p(x, z) of the first data point": _log_joint(_run_on_first(pair, batch))})
        refuse_fixed(_run_on_first(pair, batch))
        _refuse_outside_support(pair, batch)
        yield batch


def _run_on_first(pair: Pair, batch: Batch) -> Joint:
    """The pair on the first data point, with two particles."""
    first = to_pair(rows_or_all(pair, batch, slice(1)), pair)
    with own_randomness((0,), device_of(pair)):
        return trace_pair(pair, first, 2)


def _log_joint(joint: Joint) -> float:
    """The mean log p(x, z), by which processes tell whether their pairs are the same."""
    return sum_terms(joint.log_p_terms()).double().mean().item()


def _refuse_outside_support(pair: Pair, batch: Batch) -> None:
    scaled: set[str] = set()
    measure = partial(_inside_support, pair, scaled)
    found = over_data(pair, batch, 1, measure, None)
    if any((inside == 0).any() for inside in found.values()):  # under one draw; the support may depend on the latents
        with own_randomness((1,), device_of(pair)):
            found = over_data(pair, batch, LATENTS, measure, None)
    for site, inside in found.items():
        outside = inside == 0  # and NaN for rows whose batch does not reach the site
        if outside.any():
            raise ValueError(
                f"data: found row {int(outside.int().argmax())} outside the support of the likelihood at site '{site}' "
                f"({int(outside.sum())} such rows in all), expected values it can produce; "
                f"{into_support(next(iter(tensors(batch).values())))}, or choose another likelihood"
            )
    if scaled:
        warnings.warn(
            f"sites {sorted(scaled)}: the scale that poutine.scale or a subsampled plate of features gives them acts "
            "in training alone, and is left out of what is measured",
            stacklevel=4,
        )


def _inside_support(pair: Pair, scaled: set[str], batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
    """Which rows are inside the support of each likelihood under any of the latents that are drawn, or enumerated.

    Sites with a scale of their own are added to `scaled`.
    """
    parts = [_inside_under_draws(pair, scaled, batch, size) for size in sizes(num_particles, at_once)]
    return {name: torch.stack([part[name] for part in parts]).any(0) for name in parts[0]}


def _inside_under_draws(pair: Pair, scaled: set[str], batch: Batch, num_particles: int) -> dict[str, Tensor]:
    joint = trace_pair(pair, batch, num_particles)
    refuse_unlike(joint)
    scaled |= handler_scales(joint.guide).keys() | handler_scales(joint.model).keys()
    inside = {}
    for name, site in sample_sites(joint.model, observed=True).items():
        try:
            support = image_of(site["fn"]) or site["fn"].support
        except NotImplementedError:  # a distribution of the user's own need not have one
            continue
        found = support.check(site["value"])
        for _ in range(len(site["fn"].event_shape) - support.event_dim):  # for pyro.factor
            found = found.all(-1)
        inside[name] = found.expand(torch.broadcast_shapes(found.shape, (1, num_rows(batch)))).flatten(0, -2).any(0)
    return inside


def kind_of(pair: Pair, batch: Batch) -> str:
    """What the pair gives to an observation: a "probability", a "density of D numbers", or both together.

    A value that cannot be other than it is (Delta) has a probability: that is how a dequantized model observes.
    """
    with torch.random.fork_rng(gpus(pair)):
        joint = trace_pair(pair, to_pair(rows_or_all(pair, batch, slice(1)), pair), 1)
    fns = [site["fn"] for site in data_sites(joint.model).values()]
    numbers = sum(fn.event_shape.numel() for fn in fns if not (is_discrete(fn) or is_point(fn)))
    kinds = [f"density of {numbers} numbers"] if numbers else []
    return " and ".join(kinds + ["probability"] * any(is_discrete(fn) or is_point(fn) for fn in fns))


def finite(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns what was found if every estimate is finite; otherwise an error names the row that is not."""
    if (row := first_bad_row(found["estimate"])) is not None:
        raise ValueError(
            f"data: found an estimate of {found['estimate'][row].item()} nats at row {row}, expected a finite one; "
            "does the guide draw latents to which the model gives no density, or is a scale zero or infinite there?"
        )
    return found
