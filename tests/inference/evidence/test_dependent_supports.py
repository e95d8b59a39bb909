"""A likelihood whose support depends on the latents: some draws rule a data point out, and others do not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppvae
from ppvae import AIS, ContractError, Pair

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
