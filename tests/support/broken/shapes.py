"""Pairs whose posteriors no Gaussian fits: skewed, bent, heavy-tailed, of several modes."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from support.broken.case import TEST, TRAIN, Broken, Made, split
from torch import Tensor, nn

import ppvae
from ppvae import Pair
from ppvae.networks import mlp

Fn = Callable[..., dist.TorchDistribution]


class Shaped(Pair):
    """A prior, a likelihood, and a guide of one family, whose parameters a network gives; in independent copies."""

    def __init__(self, prior: Fn, likelihood: Fn, family: type[dist.TorchDistribution], copies: int):
        super().__init__()
        self.prior, self.likelihood, self.family, self.copies = prior, likelihood, family, copies
        self.encoder = mlp(1, [50, 50], 2 * prior().event_shape.numel())

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior().expand([self.copies]).to_event(1))
            pyro.sample("x", self.likelihood(z).to_event(2), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x.asinh()).chunk(2, -1)
            pyro.sample("z", self.family(loc, nn.functional.softplus(scale)).to_event(2))


def shaped(prior: Fn, likelihood: Fn, family: type[dist.TorchDistribution] = dist.Normal, copies: int = 1) -> Made:
    pair = Shaped(prior, likelihood, family, copies)
    train, test = split(likelihood(prior().sample((TRAIN + TEST, copies))).sample())
    ppvae.fit(pair, train, ppvae.ELBO(4), steps=4000, lr=3e-3, schedule=lambda done: 1 - done, progress=False)
    return pair, (train, test)


def normal(size: int) -> Fn:
    return lambda: dist.Normal(torch.zeros(size), 1.0).to_event(1)


def banana(z: Tensor) -> dist.TorchDistribution:
    return dist.Normal(z[..., :1] + 0.7 * z[..., 1:].square(), 0.1)


LEFT = ("training", "amortization", "capacity")
"""Causes of which a trained guide has a little."""

SHAPES = {
    "skewed": Broken(
        lambda: shaped(normal(1), lambda z: dist.Poisson((2 * z).exp()), copies=4),  # of 0.029 nats each
        ("shape",),
        ("remaining shape", *LEFT),
    ),
    "bent": Broken(lambda: shaped(normal(2), banana), ("shape",), ("correlation", "remaining shape", "modes", *LEFT)),
    "heavy tails": Broken(
        lambda: shaped(  # of 0.052 nats each
            lambda: dist.StudentT(2.0, torch.zeros(1)).to_event(1), lambda z: dist.Normal(z, 3.0), copies=4
        ),
        ("shape",),
        ("remaining shape", *LEFT),
    ),
    "one mode of two": Broken(
        lambda: shaped(normal(1), lambda z: dist.Normal(z.square(), 0.3)),
        ("modes", "remaining shape", "shape"),
        ("modes", "remaining shape", "shape", *LEFT),
    ),
    "cut off": Broken(
        lambda: shaped(
            lambda: dist.HalfNormal(torch.ones(1)).to_event(1), lambda z: dist.Normal(z, 0.7), dist.LogNormal
        ),
        ("shape", "remaining shape"),
        LEFT,
    ),
}
