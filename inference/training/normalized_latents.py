"""Latents that batch norm transforms: in training their density is not that of their draws."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions.transforms import BatchNorm
from torch.distributions import ComposeTransform, Transform, TransformedDistribution

from ppvae.batches import Batch
from ppvae.contract import MAX_ROWS
from ppvae.devices import gpus
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.sites import sample_sites
from ppvae.tracing import trace_pair


@torch.no_grad()
def refuse_normalized_latents(pair: Pair, batch: Batch) -> None:
    """Refuses to train a pair in which Pyro's `BatchNorm` transforms a latent, in guide or model.

    It draws by running statistics; in training its density is by those of the values themselves, over the first
    dimension, which is that of particles where they lead. Of data it is what Pyro makes of it, and in evaluation mode
    it is one affine map for all.

    Raises:
        ppvae.ContractError: there is one (the site is named).
    """
    if not any(isinstance(module, BatchNorm) for module in pair.modules()):
        return
    with torch.random.fork_rng(gpus(pair)):
        joint = trace_pair(pair, rows_or_all(pair, batch, slice(MAX_ROWS)), 1)
    for role, trace in (("guide", joint.guide), ("model", joint.model)):
        for name, site in sample_sites(trace, observed=False).items():
            if any(isinstance(each, BatchNorm) for each in _transforms(site["fn"])):
                raise ContractError(
                    f"{role} site '{name}': found the transform BatchNorm, which in training draws by running "
                    "statistics and takes log probabilities by those of the batch, expected a transform whose density "
                    "is that of its draws; leave it out, or scale and shift by parameters "
                    "(`pyro.distributions.transforms.AffineTransform`)"
                )


def _transforms(fn: Any) -> Iterator[Transform]:
    if isinstance(fn, TransformedDistribution):
        yield from _parts(fn.transforms)
    if hasattr(fn, "base_dist"):
        yield from _transforms(fn.base_dist)


def _parts(transforms: list[Transform]) -> Iterator[Transform]:
    for each in transforms:
        yield from (each, each.inv)
        if isinstance(each, ComposeTransform):
            yield from _parts(each.parts)
