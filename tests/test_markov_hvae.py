"""The Markov hierarchy against the linear-Gaussian chain (oracle 5), where all is linear algebra."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.inference import ELBO
from ppvae.models import ConditionallyIndependent, MarkovHVAE, StandardNormal

pytestmark = pytest.mark.usefixtures("float64")


class LinearGaussian(nn.Module):
    """N(A h + b, sigma^2), entry by entry."""

    def __init__(self, matrix, sigma, bias=0.0):
        super().__init__()
        self.matrix, self.sigma, self.bias = nn.Parameter(matrix), sigma, bias

    def forward(self, h):
        return dist.Normal(h @ self.matrix.T + self.bias, self.sigma).to_event(1)


SIZES = (3, 2, 2)  # of z1, z2, z3
SIGMAS = (0.6, 0.8)  # of z1 given z2, z2 given z3


def chain():
    """A three-layer chain, with the best conditionally independent guide, and its exact posterior precision."""
    transitions = [torch.randn(SIZES[i], SIZES[i + 1]) for i in range(2)]
    emission, noise = torch.randn(4, SIZES[0]), 0.7
    blocks = torch.block_diag(torch.eye(3) / SIGMAS[0] ** 2, torch.eye(2) / SIGMAS[1] ** 2, torch.eye(2))
    differences = torch.eye(7)  # the residuals of (z1, z2, z3), as a linear map of them
    differences[:3, 3:5] = -transitions[0]
    differences[3:5, 5:] = -transitions[1]
    precision = differences.T @ blocks @ differences
    observe = torch.cat([emission, torch.zeros(4, 4)], 1)
    precision = precision + observe.T @ observe / noise**2
    gain = torch.linalg.solve(precision, observe.T) / noise**2
    scales = precision.diagonal().rsqrt()
    encoders = [LinearGaussian(g, s) for g, s in zip(gain.split(SIZES), scales.split(SIZES), strict=True)]
    pair = MarkovHVAE(
        StandardNormal(SIZES[2]),
        [LinearGaussian(m, s) for m, s in zip(transitions, SIGMAS, strict=True)],
        LinearGaussian(emission, noise),
        ConditionallyIndependent(encoders),
    )
    covariance = torch.eye(2)
    for matrix, sigma in zip(reversed(transitions), reversed(SIGMAS), strict=True):
        covariance = matrix @ covariance @ matrix.T + sigma**2 * torch.eye(len(matrix))
    marginal = dist.MultivariateNormal(torch.zeros(4), emission @ covariance @ emission.T + noise**2 * torch.eye(4))
    gap = (precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    return pair, marginal, gap


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_independent_guide_costs_what_the_chain_says(kl, assert_mean):
    pair, marginal, gap = chain()
    x = marginal.sample((5,))
    with torch.no_grad():
        values = ELBO(kl=kl)(pair, x.repeat(20_000, 1))[0].reshape(20_000, 5)
    assert gap > 0.5
    assert_mean(values, marginal.log_prob(x) - gap)


@pytest.mark.parametrize(("narrowing", "less_noise"), [(0.2, True), (1.0, False)])
def test_analytic_inner_kl_has_the_same_mean(narrowing, less_noise):
    """Its noise is less for a narrow guide, as before training; near the posterior the noises of Monte Carlo's terms
    cancel, and the closed form has more (Roeder et al. 2017)."""
    pair, marginal, _ = chain()
    for encoder in pair.posterior.encoders:
        encoder.sigma = encoder.sigma * narrowing
    x = marginal.sample((5,))
    with torch.no_grad():
        repeated = x.repeat(2000, 1)
        analytic, monte_carlo = (ELBO(kl=kl)(pair, repeated)[0].reshape(2000, 5) for kl in ("analytic", "monte_carlo"))
    z = (analytic.mean(0) - monte_carlo.mean(0)) / ((analytic.var(0) + monte_carlo.var(0)) / 2000).sqrt()
    assert z.abs().max() < 4
    assert ((analytic.var(0) < monte_carlo.var(0)) == less_noise).all()


def test_samples_have_the_marginal_covariance(assert_mean):
    pair, marginal, _ = chain()
    x = pair.sample(20_000)
    assert_mean((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1), marginal.covariance_matrix.flatten(), k=4.5)


@pytest.mark.parametrize("num_latents", [[3], [3, 2], [4, 3, 2, 2]])
def test_any_number_of_layers(num_latents):
    pair = MarkovHVAE.mlp(num_features=6, num_latents=num_latents, hidden=[8], likelihood="gaussian")
    x = torch.randn(4, 6)
    pair.check(x)
    latents = pair.latents(x, num_particles=3)
    assert {name: tuple(z.shape) for name, z in latents.items()} == {
        f"z{i}": (3, 4, n) for i, n in enumerate(num_latents, 1)
    }
    _, surrogate = ELBO(kl="analytic")(pair, x)
    surrogate.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters())


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="num_latents: found no layers"):
        MarkovHVAE.mlp(num_features=6, num_latents=[])
