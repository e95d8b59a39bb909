"""Richer families against posteriors that they hold, and against one that is known on a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO

from ppvae import ContractError, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.ledger.richer_families import richer
from ppvae.inference.runtime.measuring import measuring
from ppvae.models import LinearVAE

NUM_SAMPLES = 400


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def measured(pair, data, ascent=None, seed=0):
    """The richer families, from the refined guides."""
    settings = ascent or Ascent()
    with measuring(pair, data, seed) as batch:
        return richer(refine(pair, batch, settings, 0, progress=False), settings, NUM_SAMPLES, progress=False)


def rotated():
    """A linear VAE with latents of unequal use, turned by an eighth of a circle: they are correlated given x."""
    pair = LinearVAE(3, 2)
    with torch.no_grad():
        axes = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
        pair.weight.copy_(axes @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5)
    return pair.fit_guide()


class Skewed(Pair):
    """`z ~ N(0, 1)`, `x | z ~ Poisson(e^{2 z})`: skewed to the left when x is small, and without a closed form."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson((2 * z).exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((1 + x).log() / 2 - 0.3, 0.5))

    def log_prob(self, x):
        """On a grid, whose ends are as good as never reached."""
        z = torch.linspace(-10, 5, 20_001).unsqueeze(-1)
        log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Poisson((2 * z).exp()).log_prob(x)
        return log_joint.logsumexp(0) + math.log(15 / 20_000)

    def best_normal(self, x):
        """The ELBO of the best Gaussian, by a search: its expectations are in closed form."""
        loc, scale = torch.meshgrid(torch.linspace(-3, 2, 801), torch.linspace(0.05, 1.5, 801), indexing="ij")
        rate = (2 * loc + 2 * scale.square()).exp()
        kl = (loc.square() + scale.square() - 1) / 2 - scale.log()
        return torch.stack([(2 * n * loc - rate - torch.lgamma(n + 1) - kl).max() for n in x])


def assert_at_most(elbo, log_p):
    """No data point's ELBO exceeds log p(x) but for its error."""
    assert (elbo.estimate - log_p < 4.5 * elbo.std_error + 1e-9).all()


@pytest.mark.slow(5)
def test_full_rank_recovers_a_gaussian_posterior():
    pair = rotated()
    x = pair.sample(20)
    log_p = pair.log_prob(x).detach()
    assert pair.factorized_gap() > 0.3
    found = measured(pair, x)
    assert list(found) == ["full_rank", "flow"]
    for each in found.values():
        assert_at_most(each.elbo, log_p)
        assert abs((each.elbo.estimate - log_p).mean()) < 4 * each.elbo.mean().monte_carlo_error + 0.005
        assert not each.failed.any()
        assert each.converged == 1.0
        assert each.elbo.num_particles == NUM_SAMPLES


@pytest.mark.slow(12)
def test_a_flow_gains_on_a_skewed_posterior():
    """In one dimension full rank gains nothing over the best Gaussian, and the flow most of what that lacks."""
    pair, x = Skewed(), torch.tensor([0.0, 1.0]).repeat(25)
    log_p, gaussian = pair.log_prob(x), pair.best_normal(x)
    lacking = (log_p - gaussian).mean()
    assert lacking > 0.02
    found = measured(pair, x, Ascent(num_particles=16, max_steps=2000, tolerance=0.001))
    full_rank, flow = found["full_rank"].elbo, found["flow"].elbo
    assert abs((full_rank.estimate - gaussian).mean()) < 4 * full_rank.mean().monte_carlo_error + 0.005
    assert_at_most(full_rank, log_p)
    assert_at_most(flow, log_p)
    gained = (flow.estimate - full_rank.estimate).mean()
    error = math.hypot(full_rank.mean().monte_carlo_error, flow.mean().monte_carlo_error)
    assert gained > 4 * error
    assert abs(gained - lacking) < 4 * error + lacking / 4


@pytest.mark.slow(5)
def test_constrained_latents_are_measured_in_their_own_units():
    """A Gamma prior under a log-normal guide, whose latent view is its logarithm: the evidence is known."""
    pair, x = ZOO["positive"].make()
    found = measured(pair, x)
    log_p = pair.log_prob(x).detach()
    for each in found.values():
        assert_at_most(each.elbo, log_p)
    assert (log_p - found["flow"].elbo.estimate).mean() < 0.01


def test_a_fit_that_fails_keeps_the_smaller_family():
    """One step of a length that no map survives: the refined guide's ELBO is what is reported."""
    pair = rotated()
    x = pair.sample(20)
    with measuring(pair, x, 0) as batch:
        refined = refine(pair, batch, Ascent(), 0, progress=False)
        found = richer(refined, Ascent(max_steps=1, lr=5.0), NUM_SAMPLES, progress=False)
    best = (pair.log_prob(x) - pair.factorized_gap()).detach()
    full_rank = found["full_rank"]
    assert full_rank.failed.all()
    assert full_rank.converged == 0.0
    assert (abs(full_rank.elbo.estimate - best) < 4.5 * full_rank.elbo.std_error + 0.02).all()


def test_one_seed_gives_one_result():
    pair = rotated()
    x = pair.sample(5)
    short = Ascent(max_steps=20)
    first, second, other = (measured(pair, x, short, seed)["flow"].elbo.estimate for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("amortized mixture", "site 'component': found Categorical, which is discrete, expected a continuous latent"),
        ("vector of bits", "site 'z': found Bernoulli, which is discrete"),
        ("discrete above continuous", "site 'c': found Categorical, which is discrete"),
    ],
)
def test_discrete_guides_are_refused_by_name(name, message):
    pair, batch = ZOO[name].make()
    with pytest.raises(ContractError, match=message):
        measured(pair, batch, Ascent(max_steps=1))


def test_too_many_dimensions_are_refused():
    pair = LinearVAE(302, 301)
    with pytest.raises(ValueError, match="found 301 latent dimensions, expected at most 300"):
        measured(pair, torch.randn(2, 302), Ascent(max_steps=1))
