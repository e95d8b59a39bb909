"""Guides that know the density of their own draws alone, as Pyro's planar flows do: what works, and what is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms

import ppvae
from ppvae import AIS, ELBO, IWAE, ContractError, Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


class Planar(LinearVAE):
    """A linear VAE, whose log p(x) is known, with a planar flow of a diagonal Gaussian as its guide."""

    def __init__(self):
        super().__init__(4, 2)
        self.flow = transforms.planar(2)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(self._q(x), [self.flow]))


class Unknown(Planar):
    """The same, whose log p(x) has to be measured."""

    log_prob = ppvae.Pair.log_prob


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Planar()


def assert_no_more_than(bound, exact):
    assert (bound.estimate - exact < 4.5 * bound.std_error).all()


@pytest.mark.parametrize("objective", [ELBO(), ELBO(kl="monte_carlo"), ELBO(3), IWAE(5)])
def test_plain_gradients_train(pair, objective):
    x = torch.randn(60, 4)
    before = ppvae.elbo(pair, x, 200, seed=0, progress=False).mean()
    ppvae.fit(pair, x, objective, steps=200, batch_size=20, lr=1e-2, progress=False)
    after = ppvae.elbo(pair, x, 200, seed=0, progress=False)
    assert after.mean().estimate - before.estimate > 10 * after.mean().monte_carlo_error
    assert_no_more_than(after, pair.log_prob(x).detach())


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(5, "dreg")])
def test_gradients_that_hold_draws_fixed_are_refused_by_the_sites_name(pair, objective):
    with pytest.raises(ContractError, match="site 'z': found TransformedDistribution, which knows no density"):
        objective(pair, torch.randn(3, 4))


def test_evidence_is_measured_by_what_applies(pair):
    x = torch.randn(5, 4)
    exact = pair.log_prob(x).detach()
    by_prior = AIS(num_chains=8, num_temperatures=30, start="prior")
    unknown = Unknown()
    unknown.load_state_dict(pair.state_dict())
    best = ppvae.log_evidence(unknown, x, "best", 2000, annealing=(AIS(), by_prior), seed=0, progress=False)
    assert best.candidates.keys() == {"iwae", "ais from prior"}
    assert "ais does not apply: site 'z'" in best.reason
    assert ((best.estimate - exact).abs() < 4.5 * best.std_error + 0.05).all()
    with pytest.raises(ContractError, match="site 'z': found TransformedDistribution"):
        ppvae.log_evidence(pair, x, "ais", progress=False)


def test_the_ledger_has_the_lines_that_need_no_more(pair):
    """Each data point's base is refined by plain gradients; richer families and mutual information are undefined."""
    x = torch.randn(5, 4)
    effort = Effort("iwae", 2000, num_samples=500, ascent=Ascent(max_steps=300), restarts=0, refit_steps=0)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    assert_no_more_than(report.elbo_refined, pair.log_prob(x).detach())
    gained = report.amortization_gap.mean()
    assert gained.estimate > 10 * gained.monte_carlo_error
    assert report.elbo_full_rank is None
    assert report.notes["elbo_full_rank"].startswith("undefined: site 'z': found TransformedDistribution")
    assert math.isnan(report.latents["z"].mutual_information)
    assert report.latents["z"].active_units == 2
