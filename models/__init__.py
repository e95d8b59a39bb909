"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal
from ppvae.models.convolutional_hvae import ConvolutionalHVAE
from ppvae.models.flows import CouplingFlow
from ppvae.models.gaussian_mixture import GaussianMixture
from ppvae.models.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, LogisticMixture
from ppvae.models.linear_vae import LinearVAE
from ppvae.models.markov_hvae import ConditionallyIndependent, MarkovHVAE
from ppvae.models.priors import StandardNormal
from ppvae.models.residual_normal import ResidualNormal
from ppvae.models.spectral import SpectralNorms
from ppvae.models.vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "Categorical",
    "ConditionallyIndependent",
    "ConvolutionalHVAE",
    "CouplingFlow",
    "DiagonalNormal",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "Likelihood",
    "LinearVAE",
    "LogisticMixture",
    "MarkovHVAE",
    "ResidualNormal",
    "SpectralNorms",
    "StandardNormal",
]
