"""Autoencoders whose networks take one leading dimension, the rows: right in plain Pyro, and never with more."""

import pyro
import pyro.distributions as dist
import torch
from support.corpus.autoencoders import pixels
from support.corpus.closed_forms import latent_normal, log_integral, standard_normal
from support.corpus.entry import Program, runs
from support.corpus.networks import Joined, NormalEncoder, perceptron
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


class Upsampling(nn.Module):
    """Images from latents, by transposed convolutions after `.view(len(z), ...)`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 8)
        self.up = nn.ConvTranspose2d(2, 1, kernel_size=2, stride=2)

    def forward(self, z):
        hidden = torch.relu(self.linear(z)).view(len(z), 2, 2, 2)
        return torch.sigmoid(self.up(hidden))


class Downsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 3, kernel_size=2, stride=2)
        self.loc, self.log_scale = nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, x):
        hidden = torch.relu(self.down(x)).view(x.size(0), -1)
        return self.loc(hidden), self.log_scale(hidden).exp()


@runs("rows")
def vae_with_convolutions():
    decoder, encoder, x = Upsampling(), Downsampling(), pixels(4, 1, 4, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.size(0)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), x.new_ones(len(x), 2)).to_event(1))
            pyro.sample("x", dist.Bernoulli(decoder(z)).to_event(3), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.size(0)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Program(model, guide, x, x, latent_normal(lambda z: dist.Bernoulli(decoder(z)), 2))


@runs("rows")
def vae_with_a_mixture_prior():
    """A cluster that only the model has is summed out, around a decoder that takes rows alone."""
    decoder, encoder, x = Upsampling(), Downsampling(), pixels(4, 1, 4, 4)
    weights, centers = torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [1.0, 0.0]])

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            cluster = pyro.sample("cluster", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(centers[cluster], 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(decoder(z)).to_event(3), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale).to_event(1))

    def exact(x):
        def log_joint(z):
            prior = (weights.log() + standard_normal(z[:, None] - centers)).logsumexp(-1)
            images = dist.Bernoulli(decoder(z)).to_event(3)
            return prior[:, None] + torch.stack([images.log_prob(row) for row in x], -1)

        with torch.no_grad():
            return log_integral(log_joint, -7.0, 7.0, 100, 2)

    return Program(model, guide, x, x, exact)


@runs("rows")
def vae_with_batch_norm():
    """Flatten, Unflatten and batch norm between layers; in evaluation its statistics are those of training."""
    decoder = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 9), nn.Unflatten(1, (1, 3, 3)))
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), NormalEncoder(9, 2))
    x = pixels(4, 1, 3, 3)
    decoder(3 * torch.randn(50, 2) + 1)
    encoder(pixels(50, 1, 3, 3))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    def exact(x):
        return latent_normal(lambda z: dist.Bernoulli(logits=decoder.eval()(z)), 2)(x)

    return Program(model, guide, x, x, exact, modules=(decoder, encoder))


@runs("rows")
def conditional_vae():
    """Labels enter model and guide as one-hot covariates."""
    decoder, encoder = perceptron(2 + 3, 5, 4), NormalEncoder(4 + 3, 2)

    def model(x, label):
        pyro.module("decoder", decoder)
        one_hot = F.one_hot(label, 3).to(x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(torch.cat([z, one_hot], -1)), 0.9).to_event(1), obs=x)

    def guide(x, label):
        pyro.module("encoder", encoder)
        one_hot = F.one_hot(label, 3).to(x.dtype)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(torch.cat([x, one_hot], -1))).to_event(1))

    def exact(data):
        return torch.cat([one_row(x, label) for x, label in zip(*data, strict=True)])

    def one_row(x, label):
        one_hot = F.one_hot(label, 3).to(x.dtype)

        def likelihood(z):
            return dist.Normal(decoder(torch.cat([z, one_hot.expand(len(z), 3)], -1)), 0.9)

        return latent_normal(likelihood, 2)(x[None])

    data = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    return Program(model, guide, data, data, exact)


class Baseline(nn.Module):
    """A first guess of the pixels that are not seen, from those that are."""

    def __init__(self):
        super().__init__()
        self.network = perceptron(6, 5, 6)

    def forward(self, seen):
        return torch.sigmoid(self.network(seen.view(-1, 6)))


@runs("rows")
def conditional_vae_of_missing_pixels():
    """Half of the image is given, -1 marks it in what is to be generated; prior and guide are networks of it."""
    baseline, prior, recognition = Baseline(), NormalEncoder(12, 2), NormalEncoder(12, 2)
    generation = Joined(perceptron(8, 5, 6))

    def model(xs, ys=None):
        for name, module in {"baseline": baseline, "prior": prior, "generation": generation}.items():
            pyro.module(name, module)
        with pyro.plate("data", xs.shape[0]):
            with torch.no_grad():
                y_hat = baseline(xs).view(xs.shape)
            z = pyro.sample("z", dist.Normal(*prior(torch.cat((xs, y_hat), 1))).to_event(1))
            logits = generation(z, xs)
            missing = ys != -1
            filled = torch.where(missing, ys, torch.zeros_like(ys))
            pyro.sample("y", dist.Bernoulli(logits=logits).mask(missing).to_event(1), obs=filled)

    def guide(xs, ys=None):
        pyro.module("recognition", recognition)
        with pyro.plate("data", xs.shape[0]):
            pyro.sample("z", dist.Normal(*recognition(torch.cat((xs, ys), 1))).to_event(1))

    xs, ys = pixels(4, 6), pixels(4, 6)
    ys[:, :3] = -1
    data = {"xs": xs, "ys": ys}
    return Program(model, guide, data, data)


class TwoHeads(nn.Module):
    """Several inputs, and a tuple of two outputs."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 6)
        self.loc, self.scale = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = torch.relu(self.trunk(torch.cat(inputs, dim=1)))
        return self.loc(hidden), F.softplus(self.scale(hidden)) + 0.3


@runs("rows")
def vae_with_several_inputs_and_outputs():
    """Content and style are two latents; a network joins them and returns a tuple."""
    decoder, content, style = TwoHeads(), NormalEncoder(3, 2), NormalEncoder(3 + 2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1)
            latents = [pyro.sample(name, prior) for name in ("content", "style")]
            loc, scale = decoder(latents)
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("content", content)
        pyro.module("style", style)
        with pyro.plate("data", len(x)):
            c = pyro.sample("content", dist.Normal(*content(x)).to_event(1))
            pyro.sample("style", dist.Normal(*style(torch.cat([x, c], dim=-1))).to_event(1))

    x = torch.randn(4, 3)
    return Program(model, guide, x, x)


class Grid(nn.Module):
    """Signals on a grid that each row shifts and stretches: coordinates and latents are split by `z[:, i]`."""

    def __init__(self, points=5):
        super().__init__()
        self.register_buffer("positions", torch.linspace(-1, 1, points).unsqueeze(-1))
        self.of_position, self.of_latent = nn.Linear(1, 4), nn.Linear(1, 4, bias=False)
        self.out = nn.Sequential(nn.Tanh(), nn.Linear(4, 1))

    def forward(self, z):
        shift, content = z[:, 0:1], z[:, 1:]
        grid = self.positions.expand(z.shape[0], *self.positions.shape)
        grid = torch.baddbmm(grid, torch.ones_like(grid), 0.3 * shift.unsqueeze(1))
        h = self.of_position(grid.reshape(-1, 1)).reshape(len(z), -1, 4) + self.of_latent(content).unsqueeze(1)
        return self.out(h).squeeze(-1)


@runs("rows")
def invariant_vae_with_grid_and_shift():
    decoder, encoder, x = Grid(), NormalEncoder(5, 2), torch.randn(4, 5)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), torch.ones(len(x), 2)).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Program(model, guide, x, x, latent_normal(lambda z: dist.Normal(decoder(z), 0.7), 2))


class Rotation(nn.Module):
    """The same in the plane: a turn by an angle, then a shift, by batched matrix products."""

    def __init__(self, side=3):
        super().__init__()
        axis = torch.linspace(-1, 1, side)
        self.register_buffer("grid", torch.cartesian_prod(axis, axis))
        self.features = nn.Linear(2, 6)
        self.out = nn.Linear(6, 1)

    def forward(self, z):
        angle, shift = z[:, 0], 0.2 * z[:, 1:]
        cos, sin = torch.cos(angle), torch.sin(angle)
        turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
        placed = torch.bmm(self.grid.expand(len(z), *self.grid.shape), turn) + shift.unsqueeze(1)
        return self.out(torch.tanh(self.features(placed))).squeeze(-1)


@runs("rows")
def invariant_vae_with_rotation():
    decoder, encoder, x = Rotation(), NormalEncoder(9, 3), pixels(4, 9)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), torch.tensor([0.4, 1.0, 1.0])).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Program(model, guide, x, x)


@runs("rows")
def vae_with_a_spline_likelihood():
    """A flow from noise to data, given the latents: splines fill a tensor of the shape of the data alone."""
    encoder, spline = NormalEncoder(3, 2), dist.transforms.conditional_spline(3, context_dim=2, count_bins=4)

    def decoded(z):
        noise = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        return dist.ConditionalTransformedDistribution(noise, [spline]).condition(z)

    def model(x):
        pyro.module("spline", spline)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", decoded(z), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    x = torch.randn(4, 3)
    return Program(model, guide, x, x)
