"""Supports that depend on latents or data: some draws rule a data point out, or a guide leaves out some latents."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppvae
from ppvae import AIS, ContractError, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.ledger.richer_families import richer
from ppvae.inference.runtime.measuring import measuring

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}


class Below(Pair):
    """`z ~ U(0, 1)`, `x ~ U(0, z)`: p(x) = -log x, in (0, 1)."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(z), z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0))


class Steps(Pair):
    """`c ~ Bernoulli(0.25)`, `z ~ N(0, 1)`, `x ~ U(0, 1 + c)`, whatever z: p(x) = 0.875 below 1, and 0.125 above."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.25)))
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(c), 1 + c), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


@pytest.mark.parametrize("method", ["auto", "iwae", "best"])
def test_draws_that_rule_data_out_weigh_nothing(method):
    x = torch.tensor([0.05, 0.2, 0.5, 0.9])
    found = ppvae.log_evidence(Below(), x, method, 4000, **quiet)
    assert ((found.estimate - (-x.log()).log()) / found.std_error).abs().max() < 4.5


def test_annealing_is_refused_by_name():
    with pytest.raises(ContractError, match=r"found draws from the guide under which x has no .* use method='iwae'"):
        ppvae.log_evidence(Below(), torch.tensor([0.9]), "ais", annealing=AIS(num_temperatures=5), **quiet)


@pytest.mark.parametrize("x", [0.5, 1.5])
def test_values_of_an_enumerated_site_may_rule_data_out(x):
    found = ppvae.log_evidence(Steps(), torch.full((3,), x), "iwae", 10, **quiet)
    torch.testing.assert_close(found.estimate, torch.full((3,), math.log(0.875 if x < 1 else 0.125)))


def test_data_that_all_draws_rule_out_are_refused():
    for measure in (ppvae.log_evidence, ppvae.elbo):
        with pytest.raises(ValueError, match=r"found row 1 outside the support .* site 'x' \(1 such rows in all\)"):
            measure(Below(), torch.tensor([0.5, 1.5, 0.1]), **quiet)


class OneBit(Pair):
    """Two bits and a number: where the first bit is drawn as one, the guide knows but one value of the second."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            bits = [pyro.sample(name, dist.Bernoulli(torch.tensor(0.5))) for name in "ab"]
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(sum(bits) + z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x, 1.0))
            a = pyro.sample("a", dist.Bernoulli(torch.full_like(x, 0.5)))
            pyro.sample("b", dist.Bernoulli(torch.where(a > 0, torch.ones_like(a), 0.5 * torch.ones_like(a))))


def test_what_a_guide_leaves_out_at_some_draws_of_other_latents_is_missed_at_all_data_points():
    """Were one draw of the others tried, half the data points would pass, 0.35 nats too low."""
    x = torch.linspace(-2, 4, 30)
    weights = torch.tensor([0.25, 0.5, 0.25]).log()
    exact = (weights + dist.Normal(torch.arange(3.0), 2**0.5).log_prob(x[:, None])).logsumexp(-1)
    assert not ppvae.log_evidence(OneBit(), x, "iwae", **quiet).reliable.any()
    found = ppvae.log_evidence(OneBit(), x, **quiet)
    assert found.reliable.all()
    assert ((found.estimate - exact).abs() < 4.5 * found.std_error).all()


class Narrower(Pair):
    """`z ~ U(0, 2)`, and a guide that knows all of it for some data points alone."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0 * x, torch.where(x > 0, 1.0, 2.0)))


@pytest.mark.parametrize("x", [[-1.0] * 9 + [1.0], [1.0] + [-1.0] * 9])
def test_chains_start_from_a_guide_of_the_models_support_at_every_data_point(x):
    x = torch.tensor(x)
    with pytest.raises(ContractError, match=r"guide site 'z': found Uniform for Uniform .* the same support"):
        ppvae.log_evidence(Narrower(), x, "ais", **quiet)
    normal = dist.Normal(torch.tensor(0.0), 1.0)
    exact = ((normal.cdf(2 - x) - normal.cdf(-x)) / 2).log()
    found = ppvae.log_evidence(Narrower(), x, **quiet)
    assert found.reliable.all()
    assert ((found.estimate - exact).abs() < 4.5 * found.std_error).all()


def test_maps_start_from_such_a_guide_too():
    x = torch.tensor([-1.0] * 9 + [1.0])
    with measuring(Narrower(), x, 0) as batch, pytest.raises(ContractError, match="guide site 'z': found Uniform for"):
        richer(refine(Narrower(), batch, Ascent(max_steps=1), 0, False), Ascent(max_steps=1), 10, False)
