"""Oracle 9: how the gradients' signal-to-noise ratio goes with K, on the Gaussian toy of Rainforth et al. 2018."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import ELBO, IWAE, Pair
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


class GaussianToy(Pair):
    """z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, 2/3 I), 0.01 off the optimum A = I/2, b = mu/2."""

    def __init__(self, num_features=20):
        super().__init__()
        self.mu = nn.Parameter(torch.randn(num_features))
        self.A = nn.Parameter(torch.eye(num_features) / 2 + 0.01 * torch.randn(num_features, num_features))
        self.b = nn.Parameter(self.mu.detach() / 2 + 0.01 * torch.randn(num_features))
        self.example = torch.zeros(1, num_features)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.A.T + self.b, (2 / 3) ** 0.5).to_event(1))

    def log_prob(self, x):
        return dist.Normal(self.mu, 2**0.5).to_event(1).log_prob(x)


def slopes(num_particles, repeats, num_points, gradient):
    """Of log SNR on log K for mu and b by least squares, and their standard errors."""
    pair = GaussianToy()
    ds = ppvae.gradient_statistics(
        pair,
        pair.sample(num_points),
        [IWAE(gradient=gradient)],
        num_particles,
        repeats,
        groups={"mu": ["mu"], "b": ["b"]},
        progress=False,
    ).isel(objective=0)
    found = {}
    for group in ("mu", "b"):
        snr, error = (ds[name].sel(group=group).values for name in ("snr", "snr_std_error"))
        centered = np.log(num_particles) - np.log(num_particles).mean()
        found[group] = (
            (centered * np.log(snr)).sum() / (centered**2).sum(),
            (centered**2 * (error / snr) ** 2).sum() ** 0.5 / (centered**2).sum(),
        )
    return found


def assert_slope(found, theory):
    """Within 0.1 of theory, and known that well."""
    slope, std_error = found
    assert abs(slope - theory) < 0.1, f"slope {slope} +- {std_error}, theory {theory}"
    assert std_error < 0.05


@pytest.mark.slow(35)
def test_slopes():
    """The guide's plain gradient needs many repeats, as its noise soon hides it; the others are seen up to K = 1000."""
    assert_slope(slopes([4, 30, 200, 1000], repeats=50, num_points=50, gradient="reparameterized")["mu"], 0.5)
    assert_slope(slopes([2, 8, 32, 128], repeats=1500, num_points=50, gradient="reparameterized")["b"], -0.5)
    assert_slope(slopes([30, 100, 300, 1000], repeats=100, num_points=10, gradient="dreg")["b"], 0.5)


@pytest.mark.slow(4)
@pytest.mark.parametrize("gradient", ["stl", "score"])
def test_noise_vanishes_as_the_guide_becomes_exact(gradient):
    """The guide's gradient of ELBO: variance as the square of the guide's error, and none for the exact guide.

    With "score", log w's spread is of the error's order, so its variance is too.
    """
    pair = LinearVAE(4, 2, guide="full").fit_guide()
    x, bias = pair.sample(5).double(), pair.encoder.bias.data.clone()
    variance = []
    for error in (0.1, 0.01, 0.0):
        pair.encoder.bias.data = bias + error
        ds = ppvae.gradient_statistics(
            pair, x, [ELBO(gradient=gradient, kl="monte_carlo")], [2], repeats=200, progress=False
        )
        found = ds.sel(group="guide").isel(objective=0, num_particles=0)
        variance.append((found["total_variance"].item(), found["total_variance_std_error"].item()))
    (large, large_error), (small, small_error), (none, _) = variance
    assert abs(large / small - 100) < 5 * 100 * ((large_error / large) ** 2 + (small_error / small) ** 2) ** 0.5
    assert none < 1e-20
