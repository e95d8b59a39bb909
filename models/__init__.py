"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal, LowRankNormal, NormalMixture
from ppvae.models.flows import CouplingFlow, InverseAutoregressiveFlow
from ppvae.models.gaussian_mixture import GaussianMixture
from ppvae.models.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, LogisticMixture
from ppvae.models.linear_vae import LinearVAE
from ppvae.models.markov_hvae import ConditionallyIndependent, MarkovHVAE
from ppvae.models.priors import FlowPrior, MixturePrior, StandardNormal, VampPrior
from ppvae.models.vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "Categorical",
    "ConditionallyIndependent",
    "CouplingFlow",
    "DiagonalNormal",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "InverseAutoregressiveFlow",
    "Likelihood",
    "LinearVAE",
    "LogisticMixture",
    "LowRankNormal",
    "MarkovHVAE",
    "MixturePrior",
    "NormalMixture",
    "StandardNormal",
    "VampPrior",
]
