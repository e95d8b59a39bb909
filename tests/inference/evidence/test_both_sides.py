"""Both sides of log p(x) on real data: right where log p(x) is known, and honest where a mode is missed."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import AIS
from ppvae.models import LinearVAE

QUIET = {"seed": 0, "progress": False}


@pytest.mark.slow(35)
def test_both_sides_cover_the_exact_evidence():
    """On data that the model has not made; the guide's gap is 0.4 nats."""
    torch.manual_seed(0)
    pair = LinearVAE(num_features=6, num_latents=3).double().fit_guide()
    x = 1.3 * pair.sample(80).double()
    found = ppvae.two_sides(pair, x, AIS(num_temperatures=200), **QUIET)
    exact = pair.log_prob(x)
    for side in (found.lower, found.upper):
        z = (side.estimate - exact) / side.std_error
        assert z.square().mean() < 1 + 4 * math.sqrt(2 / 80)
        assert abs(z.mean()) < 4 / math.sqrt(80)
    assert found.reliable.double().mean() > 0.9
    assert found.shift.mean().estimate == pytest.approx(0, abs=4 * found.shift.mean().monte_carlo_error)
    assert found.upper.warning.startswith("approximate")
    assert found.upper.kind == found.lower.kind == "density of 6 numbers"


def test_rounding_does_not_put_the_sides_the_wrong_way_round(float64):
    """With an exact guide all weights are equal: half of the data points were called unreliable, by 1e-15 nats."""
    torch.manual_seed(0)
    pair = LinearVAE(num_features=6, num_latents=1, guide="exact")
    found = ppvae.two_sides(pair, pair.sample(20), AIS(num_temperatures=100), **QUIET)
    assert found.width.estimate.abs().max() < 1e-9
    long_enough = (found.r_hat <= 1.05) & (found.ess >= 400)
    assert long_enough.sum() > 10
    assert (found.reliable == long_enough).all()
    assert "simulated data points it is too low" not in found.upper.warning


class Modes(ppvae.Pair):
    """A latent on the line with a posterior of two modes, of which the guide knows one."""

    def __init__(self, prior, mean, guide):
        super().__init__()
        self._prior, self._mean, self._guide = prior, mean, guide
        self.unused = nn.Linear(1, 1).double()  # for the pair's type

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self._prior)
            pyro.sample("x", dist.Normal(self._mean(z), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self._guide)

    def log_evidence(self, x):
        """By quadrature."""
        z = torch.linspace(-6, 14, 200_001, dtype=torch.float64)
        log_joint = self._prior.log_prob(z) + dist.Normal(self._mean(z), 1.0).log_prob(x[:, None])
        return log_joint.logsumexp(1) + math.log(20 / 200_000)


def normal(loc, scale):
    return dist.Normal(torch.tensor(loc, dtype=torch.float64), scale)


def test_two_modes_that_the_starts_see_are_not_to_be_trusted():
    """The guide and AIS see one of two equal modes, draws from the prior both: R-hat says so."""
    pair = Modes(normal(0.0, 1.0), lambda z: 6 * z.square(), normal(1.0, 0.08))
    found = ppvae.two_sides(pair, torch.full((10,), 6.0).double(), AIS(24, 40), **QUIET)
    assert found.r_hat.min() > 1.2
    assert not found.reliable.any()
    assert "not to be trusted for 10 of 10" in found.upper.warning


@pytest.mark.slow(12)
def test_a_mode_that_no_start_sees_is_said_to_leave_no_trace():
    """Three of four parts of the posterior are out of reach: the sides agree, and are too low. Simulated data tell."""
    shares = torch.tensor([0.97, 0.03], dtype=torch.float64)
    prior = dist.MixtureSameFamily(dist.Categorical(shares), normal([0.0, 8.0], 0.3))
    pair = Modes(prior, lambda z: 3 * z / 8, normal(0.03, 0.3))
    x = torch.full((60,), 3.0, dtype=torch.float64)
    found = ppvae.two_sides(pair, x, AIS(6, 100), **QUIET)
    missed = found.r_hat < 1.2  # some draws from the prior are in the other mode
    assert missed.double().mean() > 0.8
    exact = pair.log_evidence(x)
    assert (exact - found.lower.estimate)[missed].min() > 1.0
    assert (exact - found.upper.estimate)[missed].min() > 1.0
    assert found.upper.warning.startswith("approximate: an upper bound only as far as long runs have reached all")
    assert (found.shift.estimate < -5 * found.shift.std_error).any()
    assert "simulated data points it is too low" in found.upper.warning


def test_few_chains_are_refused():
    pair = LinearVAE(num_features=3, num_latents=1)
    with pytest.raises(ValueError, match="num_chains=5, expected at least 6"):
        ppvae.two_sides(pair, torch.zeros(2, 3), AIS(5, 10), **QUIET)
