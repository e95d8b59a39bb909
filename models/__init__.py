"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder, DenoisingAutoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal, LowRankNormal, NormalMixture
from ppvae.models.convolutional_hvae import ConvolutionalHVAE
from ppvae.models.denoisers import MLPDenoiser, UNet
from ppvae.models.diffusion import DiffusionVAE
from ppvae.models.diffusion_sampling import sample_ddim
from ppvae.models.flows import CouplingFlow, InverseAutoregressiveFlow
from ppvae.models.gaussian_mixture import GaussianMixture
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
from ppvae.models.residual_normal import ResidualNormal
from ppvae.models.spectral import SpectralNorms
from ppvae.models.vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "BottomUpPosterior",
    "Categorical",
    "ConditionallyIndependent",
    "ConvolutionalHVAE",
    "CosineSchedule",
    "CouplingFlow",
    "DenoisingAutoencoder",
    "DiagonalNormal",
    "DiffusionVAE",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
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
    "ResidualNormal",
    "ResidualPosterior",
    "SpectralNorms",
    "StandardNormal",
    "UNet",
    "VampPrior",
    "sample_ddim",
]
