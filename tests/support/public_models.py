"""A valid call of each public model and part, with the kind of each argument."""

import torch
from support.malformed_values import (
    Call,
    choice,
    count,
    data,
    flag,
    fraction,
    from_zero,
    function,
    instance,
    module_class,
    non_negative,
    optional,
    positive,
    real,
    sequence,
    sizes,
    tensor,
)
from support.public_arguments import images, linear, mixture, plane, points
from torch import nn

from ppvae.models import (
    VAE,
    ConvolutionalHVAE,
    Dequantized,
    DiagonalNormal,
    DiffusionVAE,
    HiddenMarkov,
    LinearGaussianChain,
    LinearGaussianStateSpace,
    MarkovHVAE,
    MLPDenoiser,
    RealNVP,
    StandardNormal,
    VampPrior,
)
from ppvae.models.parts.censored import RightCensored
from ppvae.models.parts.counts import NegativeBinomial, Poisson
from ppvae.models.parts.likelihoods import Bernoulli, Categorical, Gaussian, LogisticMixture
from ppvae.models.parts.ordinal import Ordinal


def chain():
    torch.manual_seed(0)
    return LinearGaussianChain(3, [2, 2])


def state_space():
    torch.manual_seed(0)
    return LinearGaussianStateSpace(2, 2)


def sequences():
    return torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))


def vae(likelihood="bernoulli", **settings):
    torch.manual_seed(0)
    return VAE.mlp(4, 2, [3], likelihood, **settings)


def hierarchy():
    torch.manual_seed(0)
    return MarkovHVAE.mlp(4, [2, 2], [3])


def convolutional():
    torch.manual_seed(0)
    return ConvolutionalHVAE((1, 4, 4), [1], 1, channels=1, num_cells=1)


def square_images():
    return (torch.linspace(-1, 1, 48).reshape(3, 1, 4, 4) > 0).float()


def diffusion():
    torch.manual_seed(0)
    return DiffusionVAE(MLPDenoiser(4, [5], 4), [4], 3)


def flow():
    torch.manual_seed(0)
    return RealNVP(2, 2, [4])


def dequantized():
    return Dequantized(flow(), levels=4)


def levels():
    return (torch.arange(12).reshape(6, 2) % 4) / 3


def gray():
    return (torch.arange(24).reshape(6, 4) % 3) / 2


def counted():
    return (torch.arange(24).reshape(6, 4) % 3).float()


def layer(num_in=2, num_out=4):
    return nn.Linear(num_in, num_out)


COUNT, EVEN = count(2), count(4)
NETWORK = instance(layer)
NETWORKS = sequence(instance(layer), 2)
HIDDEN = sizes(3, 3).besides("empty list")
IMAGE = sizes(1, 4, 4)
NO = flag(False)
LIKELIHOOD, POSTERIOR, PRIOR = choice("bernoulli"), choice("diagonal"), choice("normal")
BATCH = data(points)
GRAY = data(gray, "one dimension more")
COUNTED = data(counted, "one dimension more")
PLANE = data(plane)
LEADING = BATCH.besides("inf", "one dimension more")
PLANE_LEADING = PLANE.besides("inf", "one dimension more")
ACTIVATION = module_class()
LEVELS = count(4)

MODELS = {
    "Autoencoder": Call({"encoder": NETWORK, "likelihood": instance(lambda: Bernoulli(layer()))}),
    "DenoisingAutoencoder": Call(
        {
            "encoder": NETWORK,
            "likelihood": instance(lambda: Bernoulli(layer())),
            "corruption": function(torch.bernoulli),
        }
    ),
    "Bernoulli": Call({"network": NETWORK, "event_dim": from_zero(1)}),
    "Bernoulli.init_from": Call({"x": data(images, "one dimension more")}, owner=lambda: Bernoulli(layer())),
    "Categorical": Call({"network": NETWORK, "event_shape": sizes(2), "levels": LEVELS}),
    "Categorical.init_from": Call({"x": GRAY}, owner=lambda: Categorical(layer(2, 12), [4], 3)),
    "Gaussian": Call(
        {
            "network": NETWORK,
            "sigma": positive(0.5),
            "min_sigma": non_negative(0.01),
            "event_dim": from_zero(1),
        }
    ),
    "Gaussian.init_from": Call({"x": data(images, "one dimension more")}, owner=lambda: Gaussian(layer())),
    "NegativeBinomial": Call({"network": NETWORK, "event_shape": sizes(4), "gate": NETWORK.besides("None")}),
    "NegativeBinomial.init_from": Call({"x": COUNTED}, owner=lambda: NegativeBinomial(layer(), [4])),
    "Ordinal": Call({"network": NETWORK, "event_shape": sizes(4), "levels": LEVELS}),
    "Ordinal.init_from": Call({"x": COUNTED}, owner=lambda: Ordinal(layer(), [4], 3)),
    "Poisson": Call({"network": NETWORK, "event_dim": from_zero(1)}),
    "Poisson.init_from": Call({"x": COUNTED}, owner=lambda: Poisson(layer())),
    "RightCensored": Call(
        {
            "network": NETWORK,
            "limit": instance(lambda: torch.ones(4), "tensor", "array"),
            "min_sigma": non_negative(0.01),
            "event_dim": from_zero(1),
        }
    ),
    "RightCensored.init_from": Call(
        {"x": data(images, "one dimension more")}, owner=lambda: RightCensored(layer(), torch.ones(4))
    ),
    "LogisticMixture": Call({"network": NETWORK, "event_shape": sizes(2), "levels": LEVELS}),
    "LogisticMixture.init_from": Call({"x": GRAY}, owner=lambda: LogisticMixture(layer(2, 24), [4], 3)),
    "LogisticMixture.num_outputs": Call({"event_shape": sizes(2), "num_components": COUNT}),
    "Bijection": Call({"event_dim": from_zero(1), "noise_dim": optional(from_zero(1))}),
    "BottomUpPosterior": Call({"encoders": NETWORKS}),
    "ConditionallyIndependent": Call({"encoders": NETWORKS}),
    "IAFPosterior": Call({"features": NETWORKS, "heads": NETWORKS, "maps": NETWORKS}),
    "LadderPosterior": Call({"features": NETWORKS, "heads": NETWORKS}),
    "ResidualPosterior": Call({"features": NETWORKS, "heads": NETWORKS}),
    "ContinuousFlow": Call({"num_features": COUNT, "hidden": HIDDEN, "tolerance": positive(1e-3)}),
    "NICE": Call({"num_features": COUNT, "num_couplings": COUNT, "hidden": HIDDEN}),
    "RealNVP": Call({"num_features": COUNT, "num_couplings": COUNT, "hidden": HIDDEN}),
    "ResidualFlow": Call({"num_features": COUNT, "num_blocks": COUNT, "hidden": HIDDEN, "lipschitz": fraction(0.3)}),
    "Glow": Call({"shape": IMAGE, "num_levels": count(1), "num_steps": count(1), "num_hidden": COUNT}),
    "Flow": Call(
        {
            "base": instance(lambda: StandardNormal(2)),
            "transforms": sequence(instance(lambda: torch.distributions.transforms.ExpTransform()), 1, "empty list"),
        }
    ),
    "Flow.init_from": Call({"x": PLANE.besides("one dimension more")}, owner=flow),
    "Flow.log_prob": Call({"x": PLANE_LEADING}, owner=flow),
    "Flow.exact_elbo": Call({"x": PLANE_LEADING}, owner=flow),
    "ConvolutionalHVAE": Call(
        {
            "shape": IMAGE,
            "groups": sizes(1),
            "num_latents": COUNT,
            "channels": COUNT,
            "num_cells": count(1),
            "likelihood": LIKELIHOOD,
            "levels": LEVELS,
            "spectral_weight": non_negative(0.1),
            "recompute": NO,
            "num_bottom_up": from_zero(1),
        }
    ),
    "ConvolutionalHVAE.init_from": Call({"x": data(square_images)}, owner=convolutional),
    "CosineSchedule": Call({"offset": non_negative(0.01)}),
    "LinearSchedule": Call({"start": positive(0.1), "end": positive(20.0)}),
    "LearnedSchedule": Call({"start": real(-10.0), "end": real(6.0), "num_units": COUNT}),
    "CouplingFlow": Call({"network": NETWORK, "num_latents": COUNT, "num_couplings": COUNT, "num_hidden": COUNT}),
    "InverseAutoregressiveFlow": Call(
        {"network": NETWORK, "num_latents": COUNT, "num_maps": COUNT, "num_hidden": count(3)}
    ),
    "SplineFlow": Call(
        {
            "network": NETWORK,
            "num_latents": COUNT,
            "num_couplings": COUNT,
            "num_hidden": COUNT,
            "num_bins": COUNT,
            "bound": positive(5.0),
        }
    ),
    "Dequantized": Call(
        {"flow": instance(flow), "levels": LEVELS, "posterior": instance(lambda: DiagonalNormal(layer()), "None")}
    ),
    "Dequantized.init_from": Call({"x": data(levels, "one dimension more")}, owner=dequantized),
    "DiagonalNormal": Call({"network": NETWORK, "min_scale": non_negative(0.1)}),
    "FullNormal": Call({"network": NETWORK, "num_latents": COUNT}),
    "FullNormal.num_outputs": Call({"num_latents": COUNT}),
    "LowRankNormal": Call({"network": NETWORK, "num_latents": COUNT, "rank": COUNT}),
    "LowRankNormal.num_outputs": Call({"num_latents": COUNT, "rank": COUNT}),
    "NormalMixture": Call({"network": NETWORK, "num_latents": COUNT, "num_components": COUNT}),
    "NormalMixture.num_outputs": Call({"num_latents": COUNT, "num_components": COUNT}),
    "DiffusionVAE": Call(
        {
            "denoiser": instance(lambda: MLPDenoiser(4, [5], 4)),
            "shape": sizes(4),
            "num_steps": count(3),
            "likelihood": choice("gaussian"),
            "schedule": choice("cosine"),
            "parameterization": choice("eps"),
            "variance": choice("upper"),
        }
    ),
    "DiffusionVAE.init_from": Call({"x": data(images, "one dimension more")}, owner=diffusion),
    "ConvolutionalDRAW": Call({"shape": sizes(1, 8, 8), "num_latents": COUNT, "num_steps": COUNT, "channels": COUNT}),
    "DRAW": Call(
        {
            "shape": sizes(8, 8),
            "num_latents": COUNT,
            "num_steps": COUNT,
            "hidden": COUNT,
            "window": optional(COUNT),
        }
    ),
    "AR1Prior": Call({"num_latents": COUNT, "alpha": fraction(0.5)}),
    "FlowPrior": Call({"num_latents": COUNT, "num_couplings": COUNT, "num_hidden": COUNT}),
    "MixturePrior": Call({"num_latents": COUNT, "num_components": COUNT}),
    "StandardNormal": Call({"num_latents": COUNT}),
    "VampPrior": Call({"posterior": NETWORK, "event_shape": sizes(2), "num_components": COUNT}),
    "VampPrior.init_from": Call(
        {"x": data(plane, "one dimension more")}, owner=lambda: VampPrior(DiagonalNormal(layer()), [2], 2)
    ),
    "GaussianMixture": Call(
        {"num_components": COUNT, "num_features": COUNT, "covariance": choice("full"), "guide": choice("exact")}
    ),
    **{
        f"GaussianMixture.{name}": Call({"x": PLANE}, owner=mixture)
        for name in ("aic", "bic", "exact_gap", "log_prob", "responsibilities")
    },
    "GaussianMixture.assign": Call(
        {
            "weights": tensor(lambda: torch.tensor([0.5, 0.5]), "None"),
            "means": tensor(lambda: torch.zeros(2, 2), "None"),
            "covariances": tensor(lambda: torch.eye(2).expand(2, 2, 2), "None"),
        },
        owner=mixture,
    ),
    "GaussianMixture.e_step": Call(
        {"x": PLANE.besides("nan", "inf"), "hard": NO, "data_weights": tensor(lambda: torch.ones(12), "None", "nan")},
        owner=mixture,
    ),
    "GaussianMixture.start": Call(
        {"means": tensor(lambda: torch.zeros(2, 2)), "variance": positive(1.0)}, owner=mixture
    ),
    "LinearGaussianChain": Call({"num_features": COUNT, "num_latents": sizes(2, 2), "guide": choice("exact")}),
    **{
        f"LinearGaussianChain.{name}": Call({"x": LEADING}, owner=chain)
        for name in ("exact_elbo", "exact_elbo_terms", "exact_gap", "log_prob", "posterior")
    },
    "LinearGaussianStateSpace": Call({"num_features": COUNT, "num_latents": COUNT, "guide": choice("exact")}),
    "LinearGaussianStateSpace.exact_gap": Call({"batch": data(sequences)}, owner=state_space),
    "LinearGaussianStateSpace.smoothed": Call({"batch": data(sequences)}, owner=state_space),
    "LinearGaussianStateSpace.posterior": Call({"x": data(sequences).besides("nan", "inf")}, owner=state_space),
    "LinearGaussianStateSpace.factorized_gap": Call({"num_steps": COUNT}, owner=state_space),
    "Windows": Call({"length": COUNT}),
    "HiddenMarkov": Call({"num_states": COUNT, "num_features": COUNT, "likelihood": choice("gaussian")}),
    "HiddenMarkov.init_from": Call({"x": data(sequences, "one dimension more")}, owner=lambda: HiddenMarkov(2, 2)),
    "DeepMarkov": Call(
        {
            "num_features": COUNT,
            "num_latents": COUNT,
            "hidden": sizes(3, 3),
            "likelihood": LIKELIHOOD,
            "posterior": choice("combiner"),
            "levels": LEVELS,
        }
    ),
    "GatedTransition": Call({"num_latents": COUNT, "hidden": HIDDEN}),
    "Combiner": Call({"num_features": COUNT, "num_latents": COUNT, "num_hidden": COUNT}),
    "CombinerFlow": Call({"num_features": COUNT, "num_latents": COUNT, "num_hidden": count(3), "num_maps": COUNT}),
    "MeanField": Call({"num_features": COUNT, "num_latents": COUNT, "num_hidden": COUNT}),
    "LinearVAE": Call({"num_features": EVEN, "num_latents": COUNT, "guide": choice("full")}),
    **{
        f"LinearVAE.{name}": Call({"x": LEADING}, owner=linear)
        for name in ("exact_elbo", "exact_gap", "fit_closed_form", "log_prob", "posterior")
    },
    "MLPDenoiser": Call({"num_features": COUNT, "hidden": HIDDEN, "embedding": EVEN}),
    "UNet": Call({"shape": IMAGE, "channels": sizes(2), "embedding": EVEN}),
    "MarkovHVAE": Call(
        {
            "prior": instance(lambda: StandardNormal(2)),
            "transitions": sequence(instance(lambda: DiagonalNormal(layer())), 1, "empty list"),
            "likelihood": instance(lambda: Bernoulli(layer())),
            "posterior": NETWORK,
        }
    ),
    "MarkovHVAE.init_from": Call({"x": data(images, "one dimension more")}, owner=hierarchy),
    "MarkovHVAE.mlp": Call(
        {
            "num_features": EVEN,
            "num_latents": sizes(2, 2),
            "hidden": HIDDEN,
            "likelihood": LIKELIHOOD,
            "posterior": choice("independent"),
            "activation": ACTIVATION,
            "levels": LEVELS,
            "batch_norm": NO,
        }
    ),
    "ResidualNormal": Call(
        {
            "delta_loc": tensor(lambda: torch.zeros(2), "nan", "no dimension", "too many dimensions"),
            "delta_scale": tensor(lambda: torch.ones(2), "nan", "no dimension", "too many dimensions"),
            "prior": instance(lambda: torch.distributions.Normal(torch.zeros(2), torch.ones(2))),
        }
    ),
    "SpectralNorms": Call({"network": NETWORK, "iterations": COUNT}),
    "VAE": Call(
        {
            "prior": instance(lambda: StandardNormal(2)),
            "likelihood": instance(lambda: Bernoulli(layer())),
            "posterior": NETWORK,
        }
    ),
    "VAE.init_from": Call({"x": data(images, "one dimension more")}, owner=vae),
    "VAE.mlp": Call(
        {
            "num_features": EVEN,
            "num_latents": COUNT,
            "hidden": HIDDEN,
            "likelihood": LIKELIHOOD,
            "posterior": POSTERIOR,
            "activation": ACTIVATION,
            "levels": LEVELS,
            "prior": PRIOR,
        }
    ),
    "VAE.convolutional": Call(
        {
            "shape": IMAGE,
            "num_latents": COUNT,
            "channels": sizes(2),
            "likelihood": LIKELIHOOD,
            "posterior": POSTERIOR,
            "levels": LEVELS,
            "prior": PRIOR,
        }
    ),
    "sample_ddim": Call(
        {"pair": instance(diffusion), "num": COUNT, "num_steps": optional(count(2)), "eta": fraction(0.5)}
    ),
}
