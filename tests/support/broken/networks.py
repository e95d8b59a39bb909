"""Pairs with networks, each broken on purpose in one way."""

import math

import torch
from support.broken.case import FEATURES, TEST, TRAIN, Broken, Made, split
from torch import Tensor, nn

import ppvae
from ppvae.models import VAE, DiagonalNormal, Gaussian, MarkovHVAE, StandardNormal
from ppvae.networks import mlp


def curved() -> tuple[Tensor, Tensor]:
    """Data on a curved surface, with noise of 0.1."""
    z = torch.randn(TRAIN + TEST, 2)
    mix = torch.randn(2, FEATURES)
    return split(torch.sin(1.5 * z @ mix) + 0.1 * torch.randn(TRAIN + TEST, FEATURES))


def vae(sigma: float | str = 0.3) -> VAE:
    """A VAE with two latents and one hidden layer either way."""
    likelihood = Gaussian(mlp(2, [50], FEATURES), sigma=sigma)
    return VAE(StandardNormal(2), likelihood, DiagonalNormal(mlp(FEATURES, [50], 4)))


def trained(pair: ppvae.Pair, train: Tensor, epochs: int = 150, **settings: object) -> ppvae.Pair:
    ppvae.fit(pair, train, epochs=epochs, lr=3e-3, progress=False, **settings)
    return pair


def narrow_encoder() -> Made:
    """All of x passes through one number on its way to two latents, for a decoder trained with a wide encoder."""
    data = curved()
    pair = trained(vae(), data[0])
    pair.likelihood.requires_grad_(False)
    pair.posterior = DiagonalNormal(nn.Sequential(nn.Linear(FEATURES, 1), nn.Tanh(), nn.Linear(1, 4)))
    return trained(pair, data[0], 200), data


def wide_likelihood() -> Made:
    data = curved()
    return trained(vae(sigma=1.0), data[0]), data


def untrained_guide() -> Made:
    data = curved()
    pair = trained(vae(), data[0])
    for parameter, fresh in zip(pair.posterior.parameters(), mlp(FEATURES, [50], 4).parameters(), strict=True):
        parameter.data.copy_(fresh)
    return pair, data


def noisy_guide() -> Made:
    """The encoder's weights have moved at random."""
    data = curved()
    pair = trained(vae(), data[0])
    for parameter in pair.posterior.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return pair, data


def collapsed() -> Made:
    """Trained with a weight on the KL that no latent is worth."""
    data = curved()
    pair = vae("learned").init_from(data[0])
    return trained(pair, data[0], objective=ppvae.ELBO(beta=100.0)), data


def collapsed_layer() -> Made:
    """A hierarchy whose lower layer does not look at the upper one."""
    data = curved()
    pair = MarkovHVAE.mlp(FEATURES, [2, 2], [50], likelihood="gaussian").init_from(data[0])
    for parameter in pair.transitions[0].parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
    pair.transitions[0].network[-1].bias.data[2:] = math.log(math.expm1(0.5))  # softplus of it is 0.5: the scale is 1
    return trained(pair, data[0]), data


SOME_LEFT = (
    "training",
    "amortization",
    "correlation",
    "shape",
    "remaining shape",
    "modes",
    "generalization",
    "likelihood scale",
)
"""Causes that a trained network may have in part: sines are not one-to-one, and sigma was not learned."""

NETWORKS = {
    "narrow encoder": Broken(narrow_encoder, ("capacity",), SOME_LEFT),
    "wide likelihood of networks": Broken(wide_likelihood, ("likelihood scale",), SOME_LEFT),
    "untrained network": Broken(untrained_guide, ("training",), (*SOME_LEFT, "capacity")),
    "noisy network": Broken(noisy_guide, ("training",), (*SOME_LEFT, "capacity")),
    "collapsed": Broken(collapsed, ("collapse", "training")),
}
