"""GANs and their noisy density; the oracle is a linear generator, whose law is a Gaussian."""

import pytest
import torch
from torch import nn

import ppvae
from ppvae import AIS
from ppvae.models import GAN, LinearVAE, NoisyGenerator, SpectralLinear

pytestmark = pytest.mark.usefixtures("float64")


def linear():
    torch.manual_seed(0)
    return GAN(nn.Linear(2, 4), nn.Linear(4, 1), 2)


def exact(noisy):
    """The linear VAE of the same law."""
    pair, generator = LinearVAE(4, 2), noisy.gan.generator
    pair.weight.data, pair.mean.data = generator.weight.data, generator.bias.data
    pair.log_sigma.data = torch.tensor(noisy.sigma).log()
    return pair


def test_draws_of_a_gan_have_the_generators_law(assert_mean):
    gan = linear()
    x = gan.sample(4000)
    assert_mean(x, gan.generator.bias.detach())
    centered = x - gan.generator.bias.detach()
    products = (centered[:, :, None] * centered[:, None]).flatten(1)
    assert_mean(products, (gan.generator.weight @ gan.generator.weight.T).detach().flatten())
    assert torch.linalg.matrix_rank(centered) == 2  # a plane in four dimensions: no density


@pytest.mark.slow(6)
def test_the_density_of_a_noisy_linear_generator_is_exact():
    noisy = NoisyGenerator(linear(), sigma=0.3)
    x = noisy.sample(40)
    annealing = AIS(num_chains=16, num_temperatures=300, num_leapfrog=5, start="prior")
    found = ppvae.log_evidence(noisy, x, "ais", annealing=annealing, seed=0, progress=False)
    error = (found.estimate - exact(noisy).log_prob(x).detach()) / found.std_error
    assert found.reliable.all()
    assert error.square().mean() < 1 + 4 * (2 / 40) ** 0.5
    assert abs(error.mean()) < 4 / 40**0.5


@pytest.mark.slow(6)
def test_both_sides_on_its_own_data_hold_the_exact_value():
    noisy = NoisyGenerator(linear(), sigma=0.3)
    annealing = AIS(num_chains=8, num_temperatures=100, num_leapfrog=5, start="prior")
    found = ppvae.log_evidence(noisy, noisy.sample(20), "bdmc", annealing=annealing, seed=0, progress=False)
    lower, upper = found.certificate.lower.mean(), found.certificate.upper.mean()
    assert lower.estimate < upper.estimate + 4 * (lower.monte_carlo_error + upper.monte_carlo_error)
    assert abs(found.certificate.width.mean().estimate) < 0.5


@pytest.mark.slow(6)
def test_too_few_temperatures_for_a_small_sigma_show_in_the_width():
    gan, widths = linear(), []
    for sigma in (0.3, 0.03):
        noisy = NoisyGenerator(gan, sigma)
        annealing = AIS(num_chains=4, num_temperatures=30, num_leapfrog=3, start="prior")
        found = ppvae.log_evidence(noisy, noisy.sample(10), "bdmc", annealing=annealing, seed=0, progress=False)
        widths.append(found.certificate.width.mean())
    assert widths[1].estimate > widths[0].estimate + 2 * (widths[0].std_error + widths[1].std_error)


def test_it_says_whose_density_it_is():
    assert "the density of G(z) + N(0, 0.3^2), not of the generator" in repr(NoisyGenerator(linear(), sigma=0.3))


def test_spectral_norm_is_one():
    torch.manual_seed(0)
    layer = SpectralLinear(5, 3)
    x = torch.randn(1000, 2, 5)
    stretch = (layer(x[:, 0]) - layer(x[:, 1])).norm(dim=1) / (x[:, 0] - x[:, 1]).norm(dim=1)
    assert stretch.max() <= 1
    top = torch.linalg.svd(layer.weight.detach()).Vh[0]
    assert (layer(top) - layer(torch.zeros(5))).norm().item() == pytest.approx(1)
    critic = GAN.mlp(5, 2, [8, 8], spectral=True).critic
    assert ((critic(x[:, 0]) - critic(x[:, 1])).squeeze(1).abs() / (x[:, 0] - x[:, 1]).norm(dim=1)).max() <= 1
