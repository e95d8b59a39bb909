"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder, DenoisingAutoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal
from ppvae.models.denoisers import MLPDenoiser, UNet
from ppvae.models.diffusion import DiffusionVAE
from ppvae.models.diffusion_sampling import sample_ddim
from ppvae.models.flows import CouplingFlow
from ppvae.models.gaussian_mixture import GaussianMixture
from ppvae.models.likelihoods import Bernoulli, Gaussian, Likelihood
from ppvae.models.linear_vae import LinearVAE
from ppvae.models.markov_hvae import ConditionallyIndependent, MarkovHVAE
from ppvae.models.noise_schedules import CosineSchedule, LearntSchedule, LinearSchedule
from ppvae.models.priors import StandardNormal
from ppvae.models.vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "ConditionallyIndependent",
    "CosineSchedule",
    "CouplingFlow",
    "DenoisingAutoencoder",
    "DiagonalNormal",
    "DiffusionVAE",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "LearntSchedule",
    "Likelihood",
    "LinearSchedule",
    "LinearVAE",
    "MLPDenoiser",
    "MarkovHVAE",
    "StandardNormal",
    "UNet",
    "sample_ddim",
]
