"""Richer families against posteriors that they hold, and against one that is known on a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO
from torch.distributions.transforms import ExpTransform

import ppvae
from ppvae import ContractError, Effort, Pair
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


class Rates(Pair):
    """`r_i ~ Exponential(1)`, `x_i ~ Poisson(3 r_i)`: the posterior is a product of Gammas."""

    def __init__(self, guide):
        super().__init__()
        self.of_data, self.offset = guide, torch.nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            r = pyro.sample("r", dist.Exponential(torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Poisson(3 * r).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("r", self.of_data(x, self.offset.exp()).to_event(1))

    def log_prob(self, x):
        """`p(x_i) = (1/4) (3/4)^x_i`."""
        return (x * math.log(3) - (x + 1) * math.log(4)).sum(-1)

    def best_exponential(self, x):
        """The ELBO of each data point's best product of exponential distributions, by a search of their rates."""
        rate = torch.linspace(0.01, 10, 20_000)
        found = [n * (math.log(3) + (1 / rate).log() - EULER) - 4 / rate - torch.lgamma(n + 1) for n in x.unique()]
        best = torch.stack([(each + 1 - rate.log()).max() for each in found])
        return best[torch.searchsorted(x.unique(), x)].sum(-1)


EULER = 0.5772156649015329  # E log r = -log rate - EULER


def test_another_shape_is_no_correlation():
    """Of independent latents: what scaling an exponential distribution's logarithm gains is not to be correlation's."""
    x = torch.poisson(3 * dist.Exponential(1.0).sample((20, 2)))
    pair = Rates(lambda x, factor: dist.Exponential(4 * factor / (1 + x)))
    effort = Effort("iwae", 5000, num_samples=400, ascent=Ascent(max_steps=400), restarts=0, refit_steps=0)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    refined = report.elbo_refined.mean()
    assert abs(refined.estimate - pair.best_exponential(x).mean()) < 4 * refined.monte_carlo_error + 0.005
    correlation = report.correlation_gap.mean()
    assert abs(correlation.estimate) < 4 * correlation.monte_carlo_error + 0.01
    assert report.shape_gap.mean().estimate > 0.5
    assert_at_most(report.elbo_marginals, pair.log_prob(x))
    assert "The main cause is shape (" in report.verdict()
    whole = report.correlation_gap.estimate + report.shape_gap.estimate + report.remaining_gap.estimate
    torch.testing.assert_close(whole, report.approximation_gap.estimate)


@pytest.mark.parametrize(
    ("guide", "first"),
    [
        (lambda x, factor: dist.LogNormal(factor * x.log1p() - 1, 0.5), "full_rank"),
        (lambda x, factor: dist.Gamma(1 + x, 4 * factor), "marginals"),
        (lambda x, factor: dist.TransformedDistribution(dist.Normal(factor * x, 1.0), [ExpTransform()]), "marginals"),
    ],
)
def test_latents_with_location_and_scale_are_not_moved_again(guide, first):
    x = torch.tensor([[0.0, 3.0], [1.0, 2.0]])
    assert next(iter(measured(Rates(guide), x, Ascent(max_steps=1)))) == first
