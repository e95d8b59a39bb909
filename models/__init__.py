"""Pairs, and the parts they are made of."""

from ppvae.models.autoencoder import Autoencoder
from ppvae.models.conditionals import DiagonalNormal, FullNormal
from ppvae.models.continuous_flow import ContinuousFlow
from ppvae.models.coupling_flows import NICE, RealNVP
from ppvae.models.dequantized import Dequantized
from ppvae.models.flow_pair import Flow
from ppvae.models.flows import CouplingFlow
from ppvae.models.gaussian_mixture import GaussianMixture
from ppvae.models.glow import Glow
from ppvae.models.likelihoods import Bernoulli, Gaussian, Likelihood
from ppvae.models.linear_vae import LinearVAE
from ppvae.models.markov_hvae import ConditionallyIndependent, MarkovHVAE
from ppvae.models.priors import StandardNormal
from ppvae.models.residual_flow import ResidualFlow
from ppvae.models.transforms import Bijection
from ppvae.models.vae import VAE

__all__ = [
    "NICE",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "Bijection",
    "ConditionallyIndependent",
    "ContinuousFlow",
    "CouplingFlow",
    "Dequantized",
    "DiagonalNormal",
    "Flow",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "Glow",
    "Likelihood",
    "LinearVAE",
    "MarkovHVAE",
    "RealNVP",
    "ResidualFlow",
    "StandardNormal",
]
