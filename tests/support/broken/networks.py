"""Ten pairs, each broken on purpose in one way: what the ledger's verdict must name."""

import math

import torch
from torch import nn

import ppvae
from ppvae.models import VAE, DiagonalNormal, Gaussian, LinearVAE, MarkovHVAE, StandardNormal
from ppvae.networks import mlp

FEATURES, TRAIN, TEST = 10, 1000, 50


def split(x):
    return x[:TRAIN], x[TRAIN:]


def linear(num_latents=3, rotated=False):
    """A linear VAE with data of its own. Its columns are orthogonal, so that a diagonal guide is exact, or rotated."""
    pair = LinearVAE(FEATURES, num_latents)
    basis = torch.linalg.qr(torch.randn(FEATURES, num_latents))[0]
    pair.weight.data = basis * torch.linspace(6, 1, num_latents)
    if rotated:
        pair.weight.data = pair.weight.data @ torch.linalg.qr(torch.randn(num_latents, num_latents))[0]
    pair.fit_guide()
    return pair, split(pair.sample(TRAIN + TEST))


def curved():
    """Data on a curved surface, with noise of 0.1."""
    z = torch.randn(TRAIN + TEST, 2)
    mix = torch.randn(2, FEATURES)
    return split(torch.sin(1.5 * z @ mix) + 0.1 * torch.randn(TRAIN + TEST, FEATURES))


def vae(likelihood, encoder):
    return VAE(StandardNormal(2), likelihood, DiagonalNormal(encoder))


def trained(pair, train, epochs=150, **settings):
    ppvae.fit(pair, train, epochs=epochs, lr=3e-3, progress=False, **settings)
    return pair


def narrow_linear_encoder():
    """All of x passes through one number on its way to three latents."""
    pair, data = linear()
    pair.encoder = nn.Sequential(nn.Linear(FEATURES, 1), nn.Linear(1, 3))
    for p in (pair.weight, pair.mean, pair.log_sigma):
        p.requires_grad_(False)
    return trained(pair, data[0]), data


def narrow_encoder():
    """The same of a VAE that was trained with a wide encoder."""
    data = curved()
    pair = trained(vae(Gaussian(mlp(2, [50], FEATURES), sigma=0.3), mlp(FEATURES, [50], 4)), data[0])
    pair.likelihood.requires_grad_(False)
    pair.posterior = DiagonalNormal(nn.Sequential(nn.Linear(FEATURES, 1), nn.Tanh(), nn.Linear(1, 4)))
    return trained(pair, data[0], 200), data


def diagonal_on_rotated():
    return linear(rotated=True)


def diagonal_on_sum():
    """Two latents of which the data show little but the sum."""
    pair = LinearVAE(FEATURES, 2)
    direction = torch.randn(FEATURES, 1)
    pair.weight.data = direction + 0.1 * torch.randn(FEATURES, 2)
    pair.fit_guide()
    return pair, split(pair.sample(TRAIN + TEST))


def wide_linear_likelihood():
    pair, data = linear()
    pair.log_sigma.data += 1.0
    pair.fit_guide()
    return pair, data


def wide_likelihood():
    data = curved()
    return trained(vae(Gaussian(mlp(2, [50], FEATURES), sigma=1.0), mlp(FEATURES, [50], 4)), data[0]), data


def untrained_linear_guide():
    pair, data = linear()
    nn.init.normal_(pair.encoder.weight, std=0.1)
    return pair, data


def untrained_guide():
    data = curved()
    pair = trained(vae(Gaussian(mlp(2, [50], FEATURES), sigma=0.3), mlp(FEATURES, [50], 4)), data[0])
    for parameter, fresh in zip(pair.posterior.parameters(), mlp(FEATURES, [50], 4).parameters(), strict=True):
        parameter.data.copy_(fresh)
    return pair, data


def collapsed():
    """Trained with a weight on the KL that no latent is worth."""
    data = curved()
    pair = vae(Gaussian(mlp(2, [50], FEATURES), sigma="learned"), mlp(FEATURES, [50], 4)).init_from(data[0])
    return trained(pair, data[0], objective=ppvae.ELBO(beta=100.0)), data


def collapsed_layer():
    """A hierarchy whose lower layer does not look at the upper one."""
    data = curved()
    pair = MarkovHVAE.mlp(FEATURES, [2, 2], [50], likelihood="gaussian").init_from(data[0])
    for parameter in pair.transitions[0].parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
    pair.transitions[0].network[-1].bias.data[2:] = math.log(math.expm1(0.5))  # softplus of it is 0.5: the scale is 1
    return trained(pair, data[0]), data


BROKEN = {
    narrow_linear_encoder: "capacity",
    narrow_encoder: "capacity",
    diagonal_on_rotated: "correlation",
    diagonal_on_sum: "correlation",
    wide_linear_likelihood: "likelihood scale",
    wide_likelihood: "likelihood scale",
    untrained_linear_guide: "training",
    untrained_guide: "training",
    collapsed: "collapse",
}
