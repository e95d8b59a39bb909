"""Posterior families, against grids and counts of the work done; and what a second mode is worth."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import ELBO, IWAE
from ppvae.inference import kl_divergence
from ppvae.models import (
    VAE,
    CouplingFlow,
    DiagonalNormal,
    InverseAutoregressiveFlow,
    Likelihood,
    LowRankNormal,
    NormalMixture,
    SplineFlow,
    StandardNormal,
)

pytestmark = pytest.mark.usefixtures("float64")

AXIS = torch.linspace(-9, 9, 301, dtype=torch.float64)
GRID, CELL = torch.cartesian_prod(AXIS, AXIS), (AXIS[1] - AXIS[0]) ** 2


def posterior(family):
    return VAE.mlp(5, 2, hidden=[6], posterior=family).posterior


@pytest.mark.parametrize("family", ["low-rank", "mixture", "flow", "spline", "iaf"])
def test_the_density_of_any_point_integrates_to_one_and_is_that_of_the_draws(family, assert_mean):
    q = posterior(family)(torch.randn(3, 5))
    with torch.no_grad():
        density = q.log_prob(GRID.unsqueeze(1).expand(-1, 3, -1)).exp() * CELL
        draws = q.rsample((20_000,))
    torch.testing.assert_close(density.sum(0), torch.ones(3), rtol=0, atol=1e-4)
    for statistic in (lambda z: z, torch.sin, lambda z: z.prod(-1, keepdim=True)):
        assert_mean(statistic(draws), density.T @ statistic(GRID), k=4.5)


@pytest.mark.parametrize("family", ["flow", "spline", "iaf"])
def test_own_draws_have_the_density_that_others_would_have(family):
    """The one is what the maps have cached, the other takes their inverse."""
    vae = VAE.mlp(6, 5, hidden=[6], posterior=family)
    q = vae.posterior(torch.randn(3, 6))
    z = q.rsample((4,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


def test_autoregressive_inverses_are_sequential_and_own_draws_need_none():
    D, maps, passes = 7, 3, []
    vae = VAE.mlp(6, D, hidden=[6], likelihood="gaussian")
    vae.posterior = InverseAutoregressiveFlow(nn.Linear(6, 2 * D), D, num_maps=maps)
    for layer in vae.posterior.layers:
        layer.nn.register_forward_hook(lambda *_: passes.append(1))
    x = torch.randn(4, 6)

    def counted(function):
        passes.clear()
        function()
        return len(passes)

    q = vae.posterior(x)
    assert counted(lambda: q.log_prob(q.rsample())) == maps
    assert counted(lambda: q.log_prob(torch.randn(4, D))) == maps * D
    for plain in (ELBO(), IWAE(5)):
        plain(vae, x)
        assert counted(lambda plain=plain: plain(vae, x)) == maps
    for sticking in (ELBO(gradient="stl"), IWAE(5, "dreg")):
        assert counted(lambda sticking=sticking: sticking(vae, x)) == maps * (1 + D)


def test_a_low_rank_gaussian_is_that_gaussian():
    part = LowRankNormal(nn.Linear(5, 16), num_latents=4, rank=2)
    h = torch.randn(3, 5)
    loc, unconstrained, entries = part.network(h).split([4, 4, 8], -1)
    W = entries.reshape(3, 4, 2)
    covariance = nn.functional.softplus(unconstrained).square().diag_embed() + W @ W.mT
    full = dist.MultivariateNormal(loc, covariance)
    z = torch.randn(7, 3, 4)
    torch.testing.assert_close(part(h).log_prob(z), full.log_prob(z))
    p = dist.Normal(torch.randn(4), torch.rand(4) + 0.5).to_event(1)
    torch.testing.assert_close(kl_divergence(part(h), p), kl_divergence(full, p))


class Squared(Likelihood):
    """`x | z ~ N(z_1^2, 0.4^2)`: nothing says which of the two roots it was; z_2 is not seen."""

    def forward(self, z):
        return dist.Normal(z[..., :1].square(), 0.4).to_event(1)


class Shifted(StandardNormal):
    def __init__(self, shift):
        super().__init__(2)
        self.loc[0] = shift


def trained(family, shift=0.0):
    """One data point, x = 4, many times: there is nothing to amortize. Returns also log p(x), by the grid."""
    vae = VAE(Shifted(shift), Squared(), family(nn.Linear(1, family_outputs(family))))
    x = torch.full((20, 1), 4.0)
    for lr in (0.05, 0.01):
        objective = ELBO(num_particles=20, gradient="stl")
        ppvae.fit(vae, x, objective, steps=150, batch_size=20, lr=lr, progress=False)
    log_joint = vae.prior().log_prob(GRID) + vae.likelihood(GRID).log_prob(x[:1])
    return vae, x, log_joint


def family_outputs(family):
    return NormalMixture.num_outputs(2) if family is mixture else 4


def mixture(network):
    return NormalMixture(network, 2)


def measured_gap(vae, x, log_joint):
    log_p = log_joint.logsumexp(0) + CELL.log()
    elbo = ppvae.elbo(vae, x, num_samples=2000, seed=0, progress=False).mean()
    return log_p - elbo.estimate, elbo.monte_carlo_error


@pytest.mark.parametrize("seed", [2, pytest.param(0, marks=pytest.mark.slow(60))])
def test_two_modes_are_worth_log_two(seed):
    """Oracle 7. Each mode is nearly Gaussian; a guide of one Gaussian takes one of them, half of what there is."""
    torch.manual_seed(seed)
    (single, error), (double, other) = (measured_gap(*trained(family)) for family in (DiagonalNormal, mixture))
    assert double < 0.01
    assert abs(single - double - math.log(2)) < 4 * math.hypot(error, other) + 0.005


@pytest.mark.slow(4)
def test_weights_of_the_modes_are_learned():
    """A prior off the center makes one mode the heavier: the guide's share of each is the posterior's, by the grid."""
    vae, x, log_joint = trained(mixture, shift=0.25)
    share = log_joint.softmax(0) @ (GRID[:, 0] > 0).to(log_joint)
    assert 0.6 < share < 0.9
    draws = vae.latents(x, 2000)["z"][..., 0] > 0
    assert abs(draws.double().mean() - share) < 0.03
    assert measured_gap(vae, x, log_joint)[0] < 0.03


@pytest.mark.slow(16)
def test_splines_may_have_several_modes():
    """Trained on draws from the posterior with two roots, to which affine couplings stay 0.9 nats or more away."""
    torch.manual_seed(0)
    x = torch.full((1, 1), 4.0)
    log_p = (StandardNormal(2)().log_prob(GRID) + Squared()(GRID).log_prob(x)).log_softmax(0)
    roots = GRID[torch.multinomial(log_p.exp(), 1000, replacement=True)]
    draws = roots + (torch.rand_like(roots) - 0.5) * CELL.sqrt()
    family = SplineFlow(nn.Linear(1, 4), num_latents=2)
    optimizer = torch.optim.Adam(family.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        family(x[0]).log_prob(draws).mean().neg().backward()
        optimizer.step()
    with torch.no_grad():
        gap = log_p.exp() @ (log_p - CELL.log() - family(x[0]).log_prob(GRID))
    assert 0 < gap < math.log(2) / 2  # half of what one of the roots alone would miss


def test_a_scale_stays_above_its_floor():
    network = nn.Linear(5, 4)
    network.bias.data[2:] = -1e3
    scale = DiagonalNormal(network, min_scale=0.3)(torch.randn(3, 5)).base_dist.scale
    torch.testing.assert_close(scale, torch.full((3, 2), 0.3))


def test_components_start_apart():
    q = posterior("mixture")(torch.zeros(1, 5))
    locations = q.component_distribution.base_dist.loc[0]
    assert (torch.cdist(locations, locations) + 9 * torch.eye(4)).min() > 0.1


def test_bad_families_are_refused():
    for flow in (CouplingFlow, SplineFlow, InverseAutoregressiveFlow):
        with pytest.raises(ValueError, match="num_latents: found 1, expected at least 2"):
            flow(nn.Linear(5, 2), num_latents=1)
    with pytest.raises(ValueError, match="num_hidden: found 8, expected at least 9, as many as latents"):
        InverseAutoregressiveFlow(nn.Linear(5, 18), num_latents=9, num_hidden=8)
