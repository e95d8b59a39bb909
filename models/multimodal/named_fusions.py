"""Guides of several modalities by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from torch import nn

from ppvae.models.multimodal.fusions import JointPosterior, MixtureOfProducts, ProductOfExperts
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.registry import NamedPart, Registry
from ppvae.networks import mlp

Encoder = Callable[[str, int], nn.Module]
"""Given a modality's name and a number of outputs, a new network of that modality."""
NUM_FEATURES = 64
"""What each network tells the head of a joint posterior."""


@dataclass(frozen=True, kw_only=True)
class NamedFusion(NamedPart):
    """A guide of several modalities by name.

    Attributes:
        of: makes the guide from what makes encoders, the modalities' names, and the size of z.
    """

    of: Callable[[Encoder, Sequence[str], int], nn.Module]


def experts(encoder: Encoder, names: Sequence[str], num_latents: int) -> dict[str, nn.Module]:
    """An expert for each modality."""
    return {name: DiagonalNormal(encoder(name, 2 * num_latents)) for name in names}


def all_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets of the modalities that are not empty.

    Example:
        >>> all_subsets(["a", "b"])
        [('a',), ('b',), ('a', 'b')]
    """
    return list(chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)))


def joint(encoder: Encoder, names: Sequence[str], num_latents: int) -> JointPosterior:
    head = mlp(NUM_FEATURES * len(names) + len(names), [NUM_FEATURES], 2 * num_latents)
    return JointPosterior({name: encoder(name, NUM_FEATURES) for name in names}, DiagonalNormal(head))


FUSIONS = Registry(
    "posterior",
    "for another, build the pair of modules",
    NamedFusion(
        name="product",
        module=ProductOfExperts,
        summary="product of the prior and an expert for each modality",
        source="Wu & Goodman 2018",
        of=lambda encoder, names, num_latents: ProductOfExperts(experts(encoder, names, num_latents)),
    ),
    NamedFusion(
        name="mixture",
        module=MixtureOfProducts,
        summary="equal mixture of the experts",
        source="Shi et al. 2019",
        of=lambda encoder, names, num_latents: MixtureOfProducts(
            experts(encoder, names, num_latents), [(name,) for name in names]
        ),
    ),
    NamedFusion(
        name="mixture of products",
        module=MixtureOfProducts,
        summary="equal mixture of the products of all subsets",
        source="Sutter et al. 2021",
        of=lambda encoder, names, num_latents: MixtureOfProducts(
            experts(encoder, names, num_latents), all_subsets(names)
        ),
    ),
    NamedFusion(
        name="joint",
        module=JointPosterior,
        summary="a network for each modality, and a head that sees the features of those that are there",
        of=joint,
    ),
)
