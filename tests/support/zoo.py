"""The zoo: one small pair of each kind that the contract allows, with a batch, and what is known of it beforehand.

The facts are written by hand, not computed by the library, so that what it finds out can be held against them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from support.small_pairs import Coins
from support.zoo_makers import (
    bidirectional,
    bit_diffusion,
    boltzmann,
    deep_markov,
    dequantized,
    functions,
    hierarchical_pixel_vae,
    hierarchy,
    image_and_label,
    labeled,
    lossy,
    of_codes,
    of_lengths,
    of_modalities,
    on_bits,
    on_levels,
    on_normal,
    partly_labeled,
    pixel_vae,
    positive,
    sensors_and_targets,
    smoothed,
    spiked,
    stacked,
    table,
    tutorial,
    vae_gan,
    with_actions,
)
from support.zoo_pairs import BottomUp, Components, Counts, Linearly, Summed, TiedWeights, Unsteady
from torch import nn

from ppvae import Pair
from ppvae.models import (
    DRAW,
    M1,
    M2,
    MADE,
    NICE,
    VAE,
    VQVAE,
    VQVAE2,
    AutoregressivePair,
    ConditionalVAE,
    ContinuousFlow,
    ConvolutionalDRAW,
    ConvolutionalHVAE,
    DeepMarkov,
    DiagonalBiLSTM,
    DiagonalNormal,
    DiffusionVAE,
    GaussianMixture,
    Glow,
    HiddenMarkov,
    LatentCritic,
    LinearGaussianChain,
    LinearGaussianStateSpace,
    LinearModalities,
    LinearVAE,
    MixtureDensityRNN,
    MLPDenoiser,
    PixelCNN,
    RealNVP,
    RecurrentStateSpace,
    ResidualFlow,
)


@dataclass(frozen=True)
class Member:
    """One kind of pair.

    Attributes:
        make: returns a pair and a batch, of the default dtype.
        drawn: the distribution of each guide site that has no reparameterized gradient; "Bits" for a vector of coins,
            "OneHots" for several one-hot vectors.
        open_kl: a site without a KL in closed form, if any.
        tied: a guide site that an exact summation ties to the observation, if any.
        exact: log p(x) is known.
        gap: the guide differs from the posterior.
        terms: the ELBO's terms can be drawn one by one.
        quantized: its guide is at the nearest codes: one value for each x, so more particles come no closer.
        partly_observed: a site is observed in part.
        critic: what it has a critic of, "data" or "latents", if any.
    """

    make: Callable
    drawn: dict[str, str] = field(default_factory=dict)
    open_kl: str = ""
    tied: str = ""
    exact: bool = True
    gap: bool = True
    terms: bool = False
    quantized: bool = False
    partly_observed: bool = False
    critic: str = ""


def checked(name: str, layout: str = "leading") -> tuple[Pair, Any]:
    """A pair of the zoo that has been checked, in evaluation mode, and a batch: the same for all tests, to be left as
    they are.
    """
    return _checked(name, layout, torch.get_default_dtype())


@functools.cache
def _checked(name: str, layout: str, dtype: torch.dtype) -> tuple[Pair, Any]:
    torch.manual_seed(0)
    pair, x = ZOO[name].make()
    pair.eval()
    pair.particles = layout
    pair.check_once(x)
    return pair, x


COMPONENT = {"component": "Categorical"}
LABEL = {"y_unobserved": "Categorical"}
BITS = {"z0": "Bernoulli", "z1": "Bernoulli"}

ZOO = {
    "mixture": Member(on_normal(lambda: GaussianMixture(3, 2), 2), COMPONENT, gap=False),
    "amortized mixture": Member(on_normal(lambda: GaussianMixture(3, 2, guide="amortized"), 2), COMPONENT),
    "linear": Member(on_normal(lambda: LinearVAE(3, 2), 3)),
    "linear, full": Member(on_normal(lambda: LinearVAE(3, 2, guide="full"), 3)),
    "linear, exact": Member(on_normal(lambda: LinearVAE(3, 2, guide="exact"), 3), gap=False),
    "bernoulli": Member(on_bits(lambda: VAE.mlp(4, 2, [5]), 4), exact=False),
    "gaussian": Member(on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian"), 4), exact=False),
    "full posterior": Member(on_normal(lambda: VAE.mlp(4, 2, [5], "heteroscedastic", "full"), 4), exact=False),
    "low-rank posterior": Member(on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian", "low-rank"), 4), exact=False),
    "mixture posterior": Member(
        on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian", "mixture"), 4), {"z": "Mixture"}, open_kl="z", exact=False
    ),
    "flow posterior, learned mixture prior": Member(
        on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian", "flow", prior="mixture"), 4), open_kl="z", exact=False
    ),
    "autoregressive posterior, flow prior": Member(
        on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian", "iaf", prior="flow"), 4), open_kl="z", exact=False
    ),
    "VampPrior": Member(on_normal(lambda: VAE.mlp(4, 2, [5], "gaussian", prior="vamp"), 4), open_kl="z", exact=False),
    "convolutional": Member(on_bits(lambda: VAE.convolutional((1, 4, 4), 2, [2]), 1, 4, 4), exact=False),
    "chain": Member(on_normal(lambda: LinearGaussianChain(3, [2, 2]), 3)),
    "chain, exact": Member(
        on_normal(lambda: LinearGaussianChain(3, [2, 2], guide="exact"), 3), open_kl="z1", gap=False
    ),
    "hierarchy": Member(hierarchy(), exact=False),
    "hierarchy, upwards": Member(hierarchy("bottom_up"), exact=False, open_kl="z1"),
    "ladder": Member(hierarchy("ladder"), exact=False),
    "residual": Member(hierarchy("residual"), exact=False),
    "hierarchy, flow": Member(hierarchy("iaf"), exact=False, open_kl="z2"),
    "DRAW": Member(on_bits(lambda: DRAW((2, 2), 1, 2, 3, 2), 1, 2, 2), exact=False),
    "convolutional DRAW": Member(on_bits(lambda: ConvolutionalDRAW((1, 2, 2), 1, 2, 2), 1, 2, 2), exact=False),
    "diffusion": Member(on_normal(lambda: DiffusionVAE(MLPDenoiser(4, [5]), [4], 3), 4), exact=False, terms=True),
    "diffusion of bits": Member(on_bits(bit_diffusion, 1, 2, 2), exact=False, terms=True),
    "logistic mixture": Member(
        on_levels(lambda: VAE.convolutional((3, 2, 2), 2, [2], "logistic_mixture", levels=5), 5, 3, 2, 2), exact=False
    ),
    "categorical": Member(on_levels(lambda: VAE.mlp(4, 2, [5], "categorical", levels=3), 3, 4), exact=False),
    "convolutional hierarchy": Member(
        on_bits(lambda: ConvolutionalHVAE((1, 4, 4), [1, 1], 1, channels=1, num_cells=1), 1, 4, 4), exact=False
    ),
    "bidirectional hierarchy": Member(on_bits(bidirectional, 1, 4, 4), exact=False, open_kl="b1"),
    "quantized": Member(on_bits(lambda: VQVAE.mlp(4, 2, 3, 2, [5]), 4), quantized=True),
    "two-level quantized": Member(
        on_bits(lambda: VQVAE2.convolutional((1, 4, 4), 3, 2, 2, 1), 1, 4, 4), quantized=True
    ),
    "Boltzmann bits": Member(on_bits(boltzmann, 4), {"z": "Bits"}, open_kl="z", exact=False),
    "spiked bits": Member(on_bits(spiked, 4), {"z": "IndependentSpikedBits"}, exact=False),
    "smoothed bits": Member(on_bits(smoothed, 4), open_kl="z", exact=False),
    "NICE": Member(on_normal(lambda: NICE(2, 2, [4]), 2), gap=False),
    "RealNVP": Member(on_normal(lambda: RealNVP(2, 2, [4]), 2), gap=False),
    "Glow": Member(on_normal(lambda: Glow((1, 4, 4), 2, 1, 2), 1, 4, 4), gap=False),
    "continuous flow": Member(on_normal(lambda: ContinuousFlow(2, [4], tolerance=1e-3), 2), gap=False),
    "residual flow": Member(on_normal(lambda: ResidualFlow(2, 2, [4], lipschitz=0.3), 2), gap=False),
    "MADE": Member(on_bits(lambda: AutoregressivePair(MADE(4, 2, [6], [2, 0, 3, 1])), 4), gap=False),
    "PixelCNN": Member(on_levels(lambda: AutoregressivePair(PixelCNN((2, 2, 2), 3, 4, 1, 1)), 3, 2, 2, 2), gap=False),
    "Gated PixelCNN of codes": Member(of_codes, gap=False),
    "diagonal BiLSTM": Member(
        on_bits(lambda: AutoregressivePair(DiagonalBiLSTM((1, 2, 2), 2, 4, 1, 1)), 1, 2, 2), gap=False
    ),
    "PixelVAE": Member(on_bits(pixel_vae, 1, 2, 2), exact=False),
    "hierarchical PixelVAE": Member(on_bits(hierarchical_pixel_vae, 1, 2, 2), open_kl="z1", exact=False),
    "lossy autoencoder": Member(on_bits(lossy, 1, 2, 2), open_kl="z", exact=False),
    "autoregressive likelihood": Member(
        on_levels(lambda: VAE.mlp(4, 2, [5], "autoregressive", levels=3), 3, 4), exact=False
    ),
    "dequantized": Member(lambda: dequantized(DiagonalNormal(nn.Linear(2, 4))), open_kl="y", exact=False),
    "dequantized uniformly": Member(lambda: dequantized(None), open_kl="y", exact=False),
    "state space": Member(of_lengths(lambda: LinearGaussianStateSpace(2, 2), 3, 2)),
    "state space, exact": Member(of_lengths(lambda: LinearGaussianStateSpace(2, 2, "exact"), 3, 2), gap=False),
    "deep Markov, combiner": Member(of_lengths(lambda: DeepMarkov(2, 2, [4], "gaussian"), 3, 2), exact=False),
    "deep Markov, mean field": Member(
        of_lengths(lambda: DeepMarkov(2, 2, [4], "gaussian", "mean_field"), 3, 2), exact=False
    ),
    "deep Markov, flow": Member(
        of_lengths(lambda: DeepMarkov(2, 2, [4], "gaussian", "iaf"), 3, 2), exact=False, open_kl="z1"
    ),
    "hidden Markov": Member(of_lengths(lambda: HiddenMarkov(2, 2), 3, 2), gap=False),
    "recurrent state space": Member(
        with_actions(lambda: RecurrentStateSpace(2, 2, 2, num_state=3, hidden=[4]), 3, 2), exact=False
    ),
    "recurrent state space, one-hot": Member(
        with_actions(lambda: RecurrentStateSpace(2, 2, 2, 3, num_state=3, hidden=[4]), 3, 2),
        {f"z{t}": "OneHots" for t in (1, 2, 3)},
        exact=False,
    ),
    "mixture density RNN": Member(with_actions(lambda: MixtureDensityRNN(2, 2, 2, num_state=3), 3, 2), gap=False),
    "modalities": Member(of_modalities(lambda: LinearModalities({"a": 3, "b": 2}, 2), 3, 2)),
    "modalities, exact": Member(of_modalities(lambda: LinearModalities({"a": 3, "b": 2}, 2, "exact"), 3, 2), gap=False),
    "modalities, mixture of products": Member(
        of_modalities(lambda: LinearModalities({"a": 3, "b": 2}, 2, "mixture of products"), 3, 2),
        {"z": "Mixture"},
        open_kl="z",
    ),
    "image and label": Member(image_and_label, exact=False),
    "sensors and targets": Member(sensors_and_targets, exact=False),
    "conditional": Member(
        lambda: (ConditionalVAE.mlp(3, 2, 3, [4], "gaussian"), (torch.randn(8, 3), torch.arange(8) % 3)), exact=False
    ),
    "M1": Member(partly_labeled(lambda: M1.mlp(3, 2, 3, [4], "gaussian")), exact=False),
    "M2": Member(partly_labeled(lambda: M2.mlp(3, 2, 3, [4], "gaussian")), LABEL, exact=False, partly_observed=True),
    "M1+M2": Member(partly_labeled(stacked), LABEL, open_kl="z1", exact=False, partly_observed=True),
    "table": Member(table, exact=False),
    "bottom-up": Member(on_normal(BottomUp, 3), open_kl="z1"),
    "VAE/GAN": Member(on_normal(vae_gan, 4), exact=False, critic="data"),
    "critic of latents": Member(on_normal(lambda: LatentCritic(LinearVAE(3, 2), nn.Linear(2, 1)), 3), critic="latents"),
    "tied weights": Member(on_normal(TiedWeights, 3)),
    "labeled": Member(labeled),
    "unsteady": Member(on_normal(Unsteady, 3)),
    "positive": Member(positive, open_kl="z"),
    "mixture prior": Member(on_normal(Components), open_kl="z"),
    "tied by summation": Member(on_normal(lambda: Components(tied=True)), open_kl="z", tied="z"),
    "discrete above continuous": Member(on_normal(lambda: Components(guided=True)), {"c": "Categorical"}),
    "one-hot": Member(on_normal(lambda: Linearly("one-hot"), 3), {"z": "OneHotCategorical"}),
    "bits": Member(on_normal(lambda: Linearly("bits"), 3), BITS),
    "vector of bits": Member(on_normal(lambda: Linearly("vector"), 3), {"z": "Bits"}),
    "counts": Member(on_normal(Counts), {"z": "Poisson"}),
    "pyro functions": Member(functions, exact=False),
    "pyro tutorial": Member(tutorial, exact=False),
    "deep Markov": Member(deep_markov, exact=False),
    "summed": Member(on_normal(Summed), gap=False),
    "no latents": Member(on_bits(Coins), gap=False),
}

FACTORIZED = {
    *("linear", "bernoulli", "gaussian", "VampPrior", "convolutional", "logistic mixture", "categorical", "PixelVAE"),
    *("lossy autoencoder", "autoregressive likelihood", "modalities", "conditional", "M1", "table", "tied weights"),
    *("sensors and targets", "labeled", "unsteady", "pyro functions", "pyro tutorial", "VAE/GAN", "critic of latents"),
}
"""Those whose guide is one vector of independent Gaussian numbers."""
