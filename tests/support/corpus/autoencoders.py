"""Variational autoencoders: the ways in which Pyro's users organize model, guide and networks."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from support.corpus.closed_forms import (
    latent_normal,
    linear_elbo,
    linear_log_evidence,
    linear_posterior,
)
from support.corpus.entry import Program, runs
from support.corpus.networks import NormalEncoder, perceptron
from torch import nn


def pixels(num, *shape):
    return torch.bernoulli(torch.full((num, *shape), 0.4))


class ImageVAE(nn.Module):
    """Model and guide are methods of one module; images are flattened by the encoder."""

    def __init__(self, z_dim=2, num_pixels=9):
        super().__init__()
        self.z_dim, self.num_pixels = z_dim, num_pixels
        self.encoder = NormalEncoder(num_pixels, z_dim)
        self.decoder = nn.Sequential(perceptron(z_dim, 5, num_pixels), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder(z)
            observed = x.reshape(-1, self.num_pixels)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=observed)
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder(x.reshape(-1, self.num_pixels))
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    def log_evidence(self, x):
        return latent_normal(lambda z: dist.Bernoulli(self.decoder(z)), 2)(x.reshape(-1, self.num_pixels))


@runs("leading")
def vae_of_methods():
    vae, x = ImageVAE(), pixels(5, 1, 3, 3)
    return Program(vae.model, vae.guide, x[:3], x, vae.log_evidence)


class PlainModel:
    """A callable object that is no module."""

    def __init__(self, decoder):
        self.decoder = decoder

    def __call__(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.8).to_event(1), obs=x)


class PlainGuide:
    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


@runs("leading")
def vae_of_callable_objects():
    model, guide, x = PlainModel(perceptron(2, 5, 4)), PlainGuide(NormalEncoder(4, 2)), torch.randn(4, 4)
    exact = latent_normal(lambda z: dist.Normal(model.decoder(z), 0.8), 2)
    return Program(model, guide, x, x, exact)


def partial_model(decoder, x, noise=1.0):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Laplace(decoder(z), noise).to_event(1), obs=x)


def partial_guide(encoder, x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))


@runs("leading")
def vae_of_partials_with_dropout():
    """Networks are arguments bound by functools.partial; dropout must be off while measuring."""
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))
    nn.init.normal_(decoder[-1].weight)
    encoder, x = nn.Sequential(nn.Dropout(0.3), NormalEncoder(4, 2)), torch.randn(4, 4)
    model, guide = partial(partial_model, decoder, noise=0.9), partial(partial_guide, encoder)

    def exact(x):
        return latent_normal(lambda z: dist.Laplace(decoder.eval()(z), 0.9), 2)(x)

    return Program(model, guide, x, x, exact, modules=(decoder, encoder))


class LinearModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](2, 4)
        self.sigma = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.sigma).to_event(1), obs=x)


class LinearGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.scale = PyroParam(torch.tensor([0.8, 0.6]), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))


@runs("leading")
def linear_vae_of_pyro_modules():
    model, guide, x = LinearModel(), LinearGuide(), torch.randn(5, 4)

    def exact(x):
        return linear_log_evidence(x, model.decoder.weight, model.decoder.bias, model.sigma)

    def bound(x):
        q = dist.MultivariateNormal(guide.encoder(x), scale_tril=torch.diag_embed(guide.scale).expand(len(x), 2, 2))
        return linear_elbo(x, model.decoder.weight, model.decoder.bias, model.sigma, q)

    return Program(model, guide, x, x, exact, bound)


@runs("leading")
def factor_analysis_with_params():
    """Plain functions with `pyro.param`; the guide is the exact posterior, so every weight is p(x)."""
    x, weight, scale = torch.randn(5, 4), torch.randn(4, 2), torch.tensor(0.6)

    def model(x):
        loading = pyro.param("loading", weight)
        sigma = pyro.param("sigma", scale, constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            pyro.sample("x", dist.Normal(z @ loading.T, sigma).to_event(1), obs=x)

    posterior = linear_posterior(x, weight, 0.0, scale)

    def guide(x):
        readout = pyro.param("readout", weight / scale**2)
        tril = pyro.param("tril", posterior.scale_tril[0], constraint=constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ readout @ tril @ tril.T, scale_tril=tril))

    def exact(x):
        return linear_log_evidence(x, weight, 0.0, scale)

    return Program(model, guide, x, x, exact, exact)


@runs("leading")
def vae_with_two_layers():
    """A hierarchy of latents, the guide from below; a plate is made once and entered again."""
    down, emit = perceptron(2, 4, 3), perceptron(3, 4, 5)
    up, top = NormalEncoder(5, 3), NormalEncoder(3, 2)

    def model(x):
        pyro.module("down", down)
        pyro.module("emit", emit)
        rows = pyro.plate("data", len(x))
        with rows:
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with rows:
            z1 = pyro.sample("z1", dist.Normal(down(z2), 0.9).to_event(1))
            pyro.sample("x", dist.Normal(emit(z1), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("up", up)
        pyro.module("top", top)
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(*up(x)).to_event(1))
            pyro.sample("z2", dist.Normal(*top(z1)).to_event(1))

    x = torch.randn(4, 5)
    return Program(model, guide, x, x)


@runs("leading")
def vae_with_a_flow():
    """The guide is an autoregressive flow over an encoder's normal distribution."""
    decoder, encoder = perceptron(2, 5, 4), NormalEncoder(4, 2)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(*encoder(x)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    x = torch.randn(4, 4)
    return Program(model, guide, x, x, latent_normal(lambda z: dist.Normal(decoder(z), 1.0), 2))


@runs("leading")
def vae_with_factor_and_deterministic():
    """A penalty by `pyro.factor` is part of log p(x, z); a named function of the latents is none."""
    decoder, encoder = perceptron(1, 4, 3), NormalEncoder(3, 1)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            image = pyro.deterministic("image", decoder(z), event_dim=1)
            pyro.factor("penalty", -0.5 * z.square().sum(-1))
            pyro.sample("x", dist.Normal(image, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    def exact(x):
        def likelihood_and_penalty(z):
            return Penalized(decoder(z), z)

        return latent_normal(likelihood_and_penalty, 1)(x)

    x = torch.randn(4, 3)
    return Program(model, guide, x, x, exact)


class Penalized:
    def __init__(self, loc, z):
        self.loc, self.z = loc, z

    def log_prob(self, row):
        return dist.Normal(self.loc, 1.0).log_prob(row).sum(-1) - 0.5 * self.z.square().sum(-1)
