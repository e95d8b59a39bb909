"""Linear pairs, healthy and broken: what each fault costs is known in closed form."""

import pyro
import pyro.distributions as dist
import torch
from support.broken.case import FEATURES, TEST, TRAIN, Broken, Made, split
from torch import nn

import ppvae
from ppvae import Pair
from ppvae.models import GaussianMixture, LinearGaussianChain, LinearVAE
from ppvae.networks import inverse_softplus, mlp


def linear(num_latents: int = 3, rotated: bool = False, guide: str = "diagonal") -> Made:
    """A linear VAE with data of its own. Its columns are orthogonal, so that a diagonal guide is exact, or rotated."""
    pair = LinearVAE(FEATURES, num_latents, guide)
    basis = torch.linalg.qr(torch.randn(FEATURES, num_latents))[0]
    pair.weight.data = basis * torch.linspace(6, 1, num_latents)
    if rotated:
        pair.weight.data = pair.weight.data @ torch.linalg.qr(torch.randn(num_latents, num_latents))[0]
    pair.fit_guide()
    return pair, split(pair.sample(TRAIN + TEST))


def with_encoder(made: Made, encoder: nn.Module, steps: int = 1500) -> Made:
    """The pair with another encoder, trained with the model frozen."""
    pair, (train, test) = made
    pair.encoder = encoder
    for p in (pair.weight, pair.mean, pair.log_sigma):
        p.requires_grad_(False)
    ppvae.fit(pair, train, steps=steps, lr=3e-3, schedule=lambda done: 1 - done, progress=False)
    return pair, (train, test)


def unused_latent() -> Made:
    pair, _ = linear(4)
    pair.weight.data[:, 3] = 0
    pair.fit_guide()
    return pair, split(pair.sample(TRAIN + TEST))


def moved(by: float = 1.0, rotated: bool = False) -> Made:
    """The guide's mean is off by so many of its standard deviations, in each latent."""
    pair, data = linear(rotated=rotated)
    pair.encoder.bias.data += by * nn.functional.softplus(pair.posterior_scale.data)
    return pair, data


def scaled(by: float, rotated: bool = False) -> Made:
    """The guide's standard deviations are so many times the best ones."""
    pair, data = linear(rotated=rotated)
    pair.posterior_scale.data = inverse_softplus(by * nn.functional.softplus(pair.posterior_scale.data))
    return pair, data


def untrained() -> Made:
    pair, data = linear()
    nn.init.normal_(pair.encoder.weight, std=0.1)
    return pair, data


def prior_as_guide() -> Made:
    """The decoder uses its latents; the guide says nothing yet."""
    pair, data = linear()
    nn.init.zeros_(pair.encoder.weight)
    nn.init.zeros_(pair.encoder.bias)
    pair.posterior_scale.data = inverse_softplus(torch.ones(3))
    return pair, data


def one_number() -> nn.Module:
    """All of x passes through one number on its way to three latents."""
    return nn.Sequential(nn.Linear(FEATURES, 1), nn.Linear(1, 3))


class Some(nn.Module):
    """The first features alone."""

    def forward(self, x):
        return x[..., : FEATURES // 2]


def half_blind() -> Made:
    return with_encoder(linear(), nn.Sequential(Some(), nn.Linear(FEATURES // 2, 3)))


def clipped_input() -> Made:
    """Few data points are large enough for their encoder to misread them."""
    return with_encoder(linear(), nn.Sequential(nn.Hardtanh(-5.0, 5.0), nn.Linear(FEATURES, 3)))


def memorized() -> Made:
    """A large encoder, trained for long on forty data points."""
    pair, (train, test) = linear()
    return with_encoder((pair, (train[:40], test)), mlp(FEATURES, [200], 3), 3000)


def two_latents_for_one() -> Made:
    """Two latents of which the data show little but the sum."""
    pair = LinearVAE(FEATURES, 2)
    direction = torch.randn(FEATURES, 1)
    pair.weight.data = direction + 0.1 * torch.randn(FEATURES, 2)
    pair.fit_guide()
    return pair, split(pair.sample(TRAIN + TEST))


def wrong_sigma(log_factor: float, by: float = 0.0) -> Made:
    """The likelihood's standard deviation is off by a factor; the guide is the best for it, or moved."""
    pair, data = linear()
    pair.log_sigma.data += log_factor
    pair.fit_guide()
    pair.encoder.bias.data += by * nn.functional.softplus(pair.posterior_scale.data)
    return pair, data


def chain(guide: str = "independent", by: float = 0.0) -> Made:
    """Three layers; the guide draws all latents independently, which costs what the layers tell each other."""
    pair = LinearGaussianChain(FEATURES, [4, 3], guide)
    if guide == "independent":
        pair.fit_guide()
        pair.encoder.bias.data += by * nn.functional.softplus(pair.posterior_scale.data)
    return pair, split(pair.sample(TRAIN + TEST))


def mixture(guide: str = "exact", steps: int = 0) -> Made:
    pair = GaussianMixture(4, 2, guide=guide).assign(means=1.5 * torch.randn(4, 2))
    train, test = split(pair.sample(TRAIN + TEST))
    if steps:
        for p in (pair.logits, pair.means, pair.raw_scale):
            p.requires_grad_(False)
        ppvae.fit(pair, train, ppvae.ELBO(8), steps=steps, lr=3e-3, progress=False)
    return pair, (train, test)


class Noisy(Pair):
    """`x | z ~ N(W z, s I)` with a noise s that each data point comes with, and that the guide's scale ignores."""

    def __init__(self):
        super().__init__()
        weight = torch.linalg.qr(torch.randn(FEATURES, 2))[0] * 2
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.encoder = mlp(FEATURES + 1, [50], 2)
        self.scale = nn.Parameter(torch.zeros(2))

    def model(self, x, s):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, s).to_event(1), obs=x)

    def guide(self, x, s):
        with pyro.plate("data", len(x)):
            loc = self.encoder(torch.cat([x, s.log()], -1))
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(self.scale)).to_event(1))


def one_scale_for_all() -> Made:
    pair, s = Noisy(), torch.empty(TRAIN + TEST, 1).uniform_(-2.5, 1.0).exp()
    x = torch.randn(TRAIN + TEST, 2) @ pair.weight.T + s * torch.randn(TRAIN + TEST, FEATURES)
    train, test = (x[:TRAIN], s[:TRAIN]), (x[TRAIN:], s[TRAIN:])
    ppvae.fit(pair, train, steps=4000, lr=3e-3, schedule=lambda done: 1 - done, progress=False)
    return pair, (train, test)


LINEAR = {
    "exact for orthogonal columns": Broken(linear),
    "full covariance": Broken(lambda: linear(rotated=True, guide="full")),
    "computed posterior": Broken(lambda: linear(rotated=True, guide="exact")),
    "computed posterior of a chain": Broken(lambda: chain("exact")),
    "computed posterior of a mixture": Broken(mixture),
    "unused latent": Broken(unused_latent),
    "moved": Broken(moved, ("training",)),
    "narrow": Broken(lambda: scaled(0.5), ("training",)),
    "wide": Broken(lambda: scaled(2.0), ("training",)),
    "untrained": Broken(untrained, ("training",)),
    "prior as guide": Broken(prior_as_guide, ("training",), ("collapse",)),
    "untrained mixture guide": Broken(lambda: mixture("amortized"), ("training",), ("collapse",)),
    "one number": Broken(lambda: with_encoder(linear(), one_number()), ("capacity",)),
    "half blind": Broken(half_blind, ("capacity",)),
    "clipped input": Broken(clipped_input, ("capacity",), ("amortization",)),
    "one scale for all": Broken(one_scale_for_all, ("capacity",), ("training", "amortization")),
    "memorized": Broken(memorized, ("generalization",), ("amortization",)),
    "rotated": Broken(lambda: linear(rotated=True), ("correlation",)),
    "two latents for one": Broken(two_latents_for_one, ("correlation",)),
    "independent layers": Broken(chain, ("correlation",)),
    "wide likelihood": Broken(lambda: wrong_sigma(1.0), ("likelihood scale",)),
    "narrow likelihood": Broken(lambda: wrong_sigma(-0.5), ("likelihood scale",)),
    "wide likelihood, moved": Broken(lambda: wrong_sigma(1.0, 1.0), ("likelihood scale",), ("training",)),
    "rotated, narrow": Broken(lambda: scaled(0.3, rotated=True), ("training", "correlation")),
    "rotated, moved": Broken(lambda: moved(0.6, rotated=True), ("correlation", "training")),
    "independent layers, moved": Broken(lambda: chain(by=0.4), ("correlation", "training")),
}
