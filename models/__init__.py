"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder, DenoisingAutoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal, LowRankNormal, NormalMixture
from ppvae.models.continuous_flow import ContinuousFlow
from ppvae.models.convolutional_hvae import ConvolutionalHVAE
from ppvae.models.coupling_flows import NICE, RealNVP
from ppvae.models.denoisers import MLPDenoiser, UNet
from ppvae.models.dequantized import Dequantized
from ppvae.models.diffusion import DiffusionVAE
from ppvae.models.diffusion_sampling import sample_ddim
from ppvae.models.flow import Flow
from ppvae.models.flow_posteriors import CouplingFlow, InverseAutoregressiveFlow, SplineFlow
from ppvae.models.gaussian_mixture import GaussianMixture
from ppvae.models.glow import Glow
from ppvae.models.hierarchical_posteriors import (
    BottomUpPosterior,
    ConditionallyIndependent,
    LadderPosterior,
    ResidualPosterior,
)
from ppvae.models.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, LogisticMixture
from ppvae.models.linear_gaussian_chain import LinearGaussianChain
from ppvae.models.linear_vae import LinearVAE
from ppvae.models.markov_hvae import MarkovHVAE
from ppvae.models.noise_schedules import CosineSchedule, LearntSchedule, LinearSchedule
from ppvae.models.priors import FlowPrior, MixturePrior, StandardNormal, VampPrior
from ppvae.models.residual_flow import ResidualFlow
from ppvae.models.residual_normal import ResidualNormal
from ppvae.models.spectral import SpectralNorms
from ppvae.models.transforms import Bijection
from ppvae.models.vae import VAE

__all__ = [
    "NICE",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "Bijection",
    "BottomUpPosterior",
    "Categorical",
    "ConditionallyIndependent",
    "ContinuousFlow",
    "ConvolutionalHVAE",
    "CosineSchedule",
    "CouplingFlow",
    "DenoisingAutoencoder",
    "Dequantized",
    "DiagonalNormal",
    "DiffusionVAE",
    "Flow",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "Glow",
    "InverseAutoregressiveFlow",
    "LadderPosterior",
    "LearntSchedule",
    "Likelihood",
    "LinearGaussianChain",
    "LinearSchedule",
    "LinearVAE",
    "LogisticMixture",
    "LowRankNormal",
    "MLPDenoiser",
    "MarkovHVAE",
    "MixturePrior",
    "NormalMixture",
    "RealNVP",
    "ResidualFlow",
    "ResidualNormal",
    "ResidualPosterior",
    "SpectralNorms",
    "SplineFlow",
    "StandardNormal",
    "UNet",
    "VampPrior",
    "sample_ddim",
]
