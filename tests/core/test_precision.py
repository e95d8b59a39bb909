"""Pairs whose models make their priors of `torch.zeros(2)`, in another precision than theirs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE
from ppvae.simulation import simulate


class Factors(ppvae.Pair):
    """`z ~ N(0, I)`, `x ~ N(W z, I)`, so `x ~ N(0, W W' + I)`; a linear module takes draws of its own type only."""

    def __init__(self):
        super().__init__()
        self.load, self.encoder = nn.Linear(2, 3, bias=False), nn.Linear(3, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.load(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def marginal(self):
        weight = self.load.weight
        return dist.MultivariateNormal(weight.new_zeros(3), weight @ weight.T + torch.eye(3).to(weight))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Factors().double()


@pytest.fixture
def x(pair):
    return pair.marginal().sample((6,))


def test_all_that_draws_from_the_model_runs(pair, x):
    pair.check(x)
    assert pair.sample(5).dtype == pair.sample(x).dtype == torch.float64
    assert simulate(pair, x)[1]["z"].dtype == torch.float64
    found = ppvae.to_arviz(pair, x, num_samples=4, seed=0, progress=False)
    assert str(found.prior["z"].dtype) == "float64"
    assert len(ppvae.calibration(pair, num_simulations=20, progress=False).quantity) == 3


def test_draws_are_of_the_joint(pair, assert_mean):
    drawn, latents = simulate(pair, torch.zeros(20_000, 3).double())
    noise = drawn - pair.load(latents["z"]).detach()
    assert_mean(noise[:, :, None] * noise[:, None, :], torch.eye(3).double())
    assert_mean(drawn[:, :, None] * drawn[:, None, :], pair.marginal().covariance_matrix.detach())


@pytest.mark.parametrize("method", ["auto", "ais from prior"])
def test_evidence_is_that_of_the_marginal(pair, x, method):
    found = ppvae.log_evidence(pair, x, method, seed=0, progress=False)
    exact = pair.marginal().log_prob(x).detach()
    assert found.reliable.all()
    assert ((found.estimate - exact).abs() < 5 * found.std_error + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "call", [ppvae.elbo, ppvae.log_evidence, ppvae.to_arviz, lambda pair, x: ppvae.Trainer(pair).step(x)]
)
def test_log_probabilities_of_three_digits_are_refused(dtype, call):
    """A bound of -100 nats would be off by half a nat."""
    with pytest.raises(ppvae.ContractError, match=f"site '.': found log probabilities of {dtype}.*pair.float()"):
        call(VAE.mlp(3, 2, [4]).to(dtype), torch.ones(4, 3))


@pytest.mark.parametrize("method", ["auto", "ais", "ais from prior"])
def test_a_pair_in_single_precision_where_the_default_is_double(float64, pair, x, method, assert_mean):
    pair, x = pair.float(), x.float()
    found = ppvae.log_evidence(pair, x, method, seed=0, progress=False)
    exact = pair.marginal().log_prob(x).detach()
    assert found.reliable.all()
    assert ((found.estimate - exact).abs() < 5 * found.std_error + 1e-4).all()
    pair.check(x)
    drawn = pair.sample(20_000)
    assert drawn.dtype == torch.float32
    assert_mean(drawn[:, :, None] * drawn[:, None, :], pair.marginal().covariance_matrix.detach())


def test_draws_in_double_precision_stay_so_where_a_pair_holds_both(float64, pair):
    """A linear module of double precision, after one of single that comes first."""
    pair.load.float()
    pair.decode = nn.Linear(2, 3, bias=False)
    assert next(pair.parameters()).dtype == torch.float32

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pair.decode(z), 1.0).to_event(1), obs=x)

    pair.model, pair.example = model, torch.zeros(4, 3)
    assert pair.sample(3).dtype == torch.float64
