"""Likelihoods by name: those of `parts`, and those that rooms above them have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppvae.models.autoregressive.autoregressive_likelihood import AutoregressiveLikelihood
from ppvae.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from ppvae.models.autoregressive.made import MADE
from ppvae.models.autoregressive.masked_network import MaskedNetwork
from ppvae.models.parts.censored import RightCensored
from ppvae.models.parts.counts import CompressedCounts, NegativeBinomial, Poisson
from ppvae.models.parts.likelihood import Likelihood
from ppvae.models.parts.likelihoods import Bernoulli, Categorical, Gaussian, LogisticMixture
from ppvae.models.parts.ordinal import Ordinal
from ppvae.models.parts.registry import NamedPart, Registry


@dataclass(frozen=True, kw_only=True)
class NamedLikelihood(NamedPart):
    """A likelihood by name.

    Attributes:
        num_outputs: the size of its network's output (for images, the number of channels), given the shape of x and the
            number of gray levels.
        make: makes the likelihood from a function that makes a network with that output, the shape of x, and the number
            of gray levels.
        counts: whether data are counts, which may be large: `VAE`'s encoders see `asinh` of them.
    """

    num_outputs: Callable[[Sequence[int], int], int]
    make: Callable[[Callable[[], nn.Module], Sequence[int], int], Likelihood]
    counts: bool = False

    def seen(self, encoder: nn.Module) -> nn.Module:
        """An encoder that sees the data as it can best take them."""
        return nn.Sequential(CompressedCounts(), encoder) if self.counts else encoder

    def of(self, network: Callable[[int], nn.Module], event_shape: Sequence[int], levels: int = 256) -> Likelihood:
        """The likelihood on new networks.

        Args:
            network: given the size of its output, a module `[*, D] -> [*, size]` for vectors, `[*, D] -> [*, size, H,
                W]` for images.
            event_shape: of x: `(num_features,)` or `(C, H, W)`.
            levels: number of gray levels, for likelihoods of these.
        """
        size = self.num_outputs(event_shape, levels)
        return self.make(lambda: network(size), event_shape, levels)


NUM_CONDITION = 16
"""What the decoder of an autoregressive likelihood tells the masked network, by name: so many numbers, or channels."""


def one_per_feature(event_shape: Sequence[int], levels: int) -> int:
    """The outputs of a network that gives one number for each feature, or for each channel of a pixel."""
    return event_shape[0]


LIKELIHOODS = Registry(
    "likelihood",
    "for another, build the pair of modules",
    NamedLikelihood(
        name="bernoulli",
        module=Bernoulli,
        summary="binary data",
        source="Kingma & Welling 2014",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: Bernoulli(network(), len(event_shape)),
    ),
    NamedLikelihood(
        name="gaussian",
        module=Gaussian,
        summary="real data, with one learned sigma",
        source="Rybkin et al. 2021",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: Gaussian(network(), event_dim=len(event_shape)),
    ),
    NamedLikelihood(
        name="heteroscedastic",
        module=Gaussian,
        summary="real data, with sigma(z) by a network of its own",
        source="Kingma & Welling 2014",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: Gaussian(network(), sigma=network(), event_dim=len(event_shape)),
    ),
    NamedLikelihood(
        name="logistic_mixture",
        module=LogisticMixture,
        summary="gray levels by mixtures of five discretized logistics, colors one after another",
        source="Salimans et al. 2017",
        num_outputs=lambda event_shape, levels: LogisticMixture.num_outputs(event_shape, num_components=5),
        make=lambda network, event_shape, levels: LogisticMixture(network(), event_shape, levels),
    ),
    NamedLikelihood(
        name="categorical",
        module=Categorical,
        summary="gray levels, a probability for each",
        num_outputs=lambda event_shape, levels: levels * event_shape[0],
        make=lambda network, event_shape, levels: Categorical(network(), event_shape, levels),
    ),
    NamedLikelihood(
        name="autoregressive",
        module=AutoregressiveLikelihood,
        summary="bits or gray levels, each given z and those before it, by MADE or, for images, Gated PixelCNN",
        source="Gulrajani et al. 2017",
        num_outputs=lambda event_shape, levels: NUM_CONDITION,
        make=lambda network, event_shape, levels: AutoregressiveLikelihood(network(), masked(event_shape, levels)),
    ),
    NamedLikelihood(
        name="poisson",
        module=Poisson,
        summary="counts",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: Poisson(network(), len(event_shape)),
        counts=True,
    ),
    NamedLikelihood(
        name="negative_binomial",
        module=NegativeBinomial,
        summary="counts that vary more than a Poisson's, with one learned dispersion for each feature",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: NegativeBinomial(network(), event_shape),
        counts=True,
    ),
    NamedLikelihood(
        name="zero_inflated",
        module=NegativeBinomial,
        summary="the same, with extra zeros by a network of its own",
        source="Eraslan et al. 2019",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: NegativeBinomial(network(), event_shape, gate=network()),
        counts=True,
    ),
    NamedLikelihood(
        name="ordinal",
        module=Ordinal,
        summary="ordered categories 0 ... `levels` - 1, by cumulative logits",
        source="McCullagh 1980",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: Ordinal(network(), event_shape, levels),
    ),
    NamedLikelihood(
        name="right_censored",
        module=RightCensored,
        summary="real data with a ceiling, the highest value that `init_from` sees",
        source="Tobin 1958",
        num_outputs=one_per_feature,
        make=lambda network, event_shape, levels: RightCensored(
            network(), no_limit(event_shape), event_dim=len(event_shape)
        ),
    ),
)


def no_limit(event_shape: Sequence[int]) -> Tensor:
    return torch.full((event_shape[0], *(1,) * (len(event_shape) - 1)), torch.inf)


def masked(event_shape: Sequence[int], levels: int) -> MaskedNetwork:
    if len(event_shape) == 1:
        return MADE(event_shape[0], levels, num_condition=NUM_CONDITION)
    return GatedPixelCNN(event_shape, levels, 32 * event_shape[0], num_condition=NUM_CONDITION)
