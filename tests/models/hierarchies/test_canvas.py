"""DRAW: with one step and no attention it is a VAE, unit filters are the identity, and its evidence is known."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import DRAW, VAE, Bernoulli, ConvolutionalDRAW, DiagonalNormal, StandardNormal
from ppvae.models.hierarchies.glimpses import GaussianWindow, filter_bank

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}


def draw(num_latents=1, num_steps=2, window=None):
    pair = DRAW((3, 3), num_latents, num_steps, 6, window)
    for p in pair.parameters():
        p.data.mul_(2.0)
    return pair.eval()


class Encoder(nn.Module):
    """The first step's reading, from a blank canvas."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, x):
        blank, (state, _) = torch.zeros_like(x), self.pair.decoder.start(x)
        seen, _ = self.pair.encoder(self.pair.seen(x, blank, state), self.pair.encoder.start(x))
        return self.pair.posterior.network(seen)


class Decoder(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, z):
        zeros = z.new_zeros(*z.shape[:-1], 6)
        state, _ = self.pair.decoder(z, (zeros, zeros))
        return self.pair.glimpse.patch(state).unflatten(-1, (1, 3, 3))


def test_one_step_without_attention_is_a_vae():
    pair, x = draw(num_latents=2, num_steps=1), torch.rand(5, 1, 3, 3).round()
    vae = VAE(StandardNormal(2), Images(Decoder(pair)), DiagonalNormal(Encoder(pair)))
    found = []
    for each in (pair, vae):
        torch.manual_seed(0)
        found.append(each.log_weights(x, 4).log_w)
    torch.testing.assert_close(*found)
    assert found[0].std() > 0.01


class Images(Bernoulli):
    """Bernoulli bits in the shape of images."""

    def forward(self, z):
        return dist.Bernoulli(logits=self.network(z)).to_event(3)


@pytest.mark.parametrize("shape", [(3, 3), (5, 5)])
def test_unit_filters_are_the_identity(shape):
    """As many as pixels, one pixel apart, and narrow: the window reads and writes the image itself."""
    window = GaussianWindow(shape, 4, shape[0])
    for linear in (window.where_to_read, window.where_to_write):
        nn.init.zeros_(linear.weight)
        linear.bias.data = torch.tensor([0.0, 0.0, -8.0, 0.0, 0.0])
    image, state = torch.rand(7, 1, *shape), torch.randn(7, 4)
    torch.testing.assert_close(window.read(image, state), image.flatten(1))
    torch.testing.assert_close(window.write(state), window.patch(state).unflatten(-1, (1, *shape)))


def test_filters_are_gaussians_about_their_centers():
    bank = filter_bank(torch.tensor(4.0), torch.tensor(2.0), torch.tensor(0.5), 3, 9)
    pixel = torch.arange(9.0)
    for row, center in zip(bank, (2.0, 4.0, 6.0), strict=True):
        density = (-((pixel - center) ** 2)).exp()
        torch.testing.assert_close(row, density / density.sum())


@pytest.mark.parametrize("window", [None, 2])
def test_evidence_by_integrating_over_both_steps(window, assert_mean):
    pair, x = draw(window=window), torch.rand(4, 1, 3, 3).round()
    for p in pair.posterior.parameters():
        p.data.zero_()
    pair.posterior.network.bias.data[1] = 1.0  # a guide wider than any posterior here: no weight is large
    axis = torch.linspace(-7, 7, 141)
    z = torch.cartesian_prod(axis, axis).unsqueeze(-1)
    with torch.no_grad():
        canvas, state = torch.zeros(len(z), 1, 3, 3), pair.decoder.start(z)
        for step in range(2):
            canvas, state = pair.written(canvas, state, z[:, step])
        log_p = dist.Bernoulli(logits=canvas[:, None]).to_event(3).log_prob(x)
        log_p += dist.Normal(0.0, 1.0).log_prob(z).sum((1, 2))[:, None]
        exact = log_p.logsumexp(0) + 2 * torch.tensor(0.1).log()
        weights = pair.log_weights(x, 20_000).log_w
    assert pair.particles == "leading"
    assert_mean((weights - exact).exp(), 1.0)


def convolutional(num_latents=1, num_steps=2, side=2):
    pair = ConvolutionalDRAW((1, side, side), num_latents, num_steps, 4)
    for p in pair.parameters():
        p.data.mul_(2.0)
    return pair.eval()


class FirstPrior(nn.Module):
    """Before anything is drawn."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self):
        return self.pair.prior(torch.zeros(self.pair.decoder.shape))


class FirstPosterior(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, x):
        blank, (state, _) = torch.zeros_like(x), self.pair.decoder.start(x)
        seen, _ = self.pair.encoder(self.pair.seen(x, blank, state), self.pair.encoder.start(x))
        return self.pair.posterior(seen)


class FirstCanvas(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, z):
        zeros = z.new_zeros(*z.shape[:-3], *self.pair.decoder.shape)
        state, _ = self.pair.decoder(z, (zeros, zeros))
        return dist.Bernoulli(logits=self.pair.write(state)).to_event(3)


def test_one_convolutional_step_is_a_convolutional_vae():
    pair, x = convolutional(num_latents=2, num_steps=1, side=4), torch.rand(5, 1, 4, 4).round()
    vae = VAE(FirstPrior(pair), FirstCanvas(pair), FirstPosterior(pair))
    found = []
    for each in (pair, vae):
        torch.manual_seed(0)
        found.append(each.log_weights(x, 4).log_w)
    torch.testing.assert_close(*found)
    assert found[0].std() > 0.01


def test_a_prior_that_does_not_see_earlier_steps_is_draws():
    """All steps are N(0, I) then, and the rest is as before; with a learned prior a step moves the next one's."""
    pair, x = convolutional(num_latents=2, num_steps=3, side=4), torch.rand(5, 1, 4, 4).round()
    learned = pair.log_weights(x, 3)
    of_z1 = pair.prior(pair.decoder(learned.latents["z1"], pair.decoder.start(x))[0]).mean
    assert of_z1.std((0, 1)).min() > 1e-4
    for p in pair.prior.parameters():
        p.data.zero_()
    weights = pair.log_weights(x, 3)
    for step in (1, 2, 3):
        z = weights.latents[f"z{step}"]
        torch.testing.assert_close(weights.log_p_sites[f"z{step}"], dist.Normal(0.0, 1.0).log_prob(z).sum((2, 3, 4)))


def test_evidence_of_two_convolutional_steps_by_integration(assert_mean):
    """Over latents of one number each, the second given the first."""
    pair, x = convolutional(), torch.rand(4, 1, 2, 2).round()
    for p in pair.posterior.parameters():
        p.data.zero_()
    pair.posterior.network.network.bias.data[1] = 1.5  # a guide wider than any posterior here: no weight is large
    axis = torch.linspace(-9, 9, 181)
    z = torch.cartesian_prod(axis, axis)[..., None, None, None]
    with torch.no_grad():
        canvas, state, log_p = torch.zeros(len(z), 1, 2, 2), pair.decoder.start(z), 2 * torch.tensor(0.1).log()
        for step in range(2):
            log_p = log_p + pair.prior_given(state).log_prob(z[:, step])
            canvas, state = pair.written(canvas, state, z[:, step])
        exact = (dist.Bernoulli(logits=canvas[:, None]).to_event(3).log_prob(x) + log_p[:, None]).logsumexp(0)
        weights = pair.log_weights(x, 20_000).log_w
    assert_mean((weights - exact).exp(), 1.0)


def test_an_odd_side_is_refused():
    with pytest.raises(ValueError, match=r"shape: found \(1, 5, 4\), expected an even height and width"):
        ConvolutionalDRAW((1, 5, 4), num_latents=1)


@pytest.mark.slow(12)
def test_a_shape_with_channels_is_refused():
    """Its first two numbers are no height and width."""
    with pytest.raises(ValueError, match=r"shape: found \(1, 4, 4\), expected \(height, width\)"):
        DRAW((1, 4, 4), num_latents=1)


@pytest.mark.parametrize("pair", [lambda: DRAW((4, 4), 2, 3, 16, 2), lambda: ConvolutionalDRAW((1, 4, 4), 1, 3, 8)])
def test_each_step_pays_a_kl_and_training_raises_the_bound(pair):
    x = (torch.randn(200, 2) @ torch.randn(2, 16) > 0).double().unflatten(1, (1, 4, 4))
    pair = pair()
    before = ppvae.elbo(pair, x, **quiet).mean()
    ppvae.fit(pair, x, epochs=20, batch_size=50, lr=0.02, progress=False)
    assert ppvae.elbo(pair, x, **quiet).mean().estimate > before.estimate + 0.5
    assert ppvae.inference.separable_sites(pair, x[:2]) == {"z1", "z2", "z3"}
