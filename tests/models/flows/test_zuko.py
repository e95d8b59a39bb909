"""Flows of zuko in a pair, by Pyro's own wrapper: they are measured right, and train compiled as they do eagerly."""

from functools import partial

import pytest
import torch
from support.compiled_runs import assert_same, run_as_traced, trained
from torch import nn
from torch.distributions import constraints

from ppvae import AIS, ELBO, ContractError, log_evidence
from ppvae.models import VAE, Gaussian, StandardNormal

zuko = pytest.importorskip("zuko")
ZukoToPyro = pytest.importorskip("pyro.contrib.zuko").ZukoToPyro

FAMILIES = {
    "autoregressive": partial(zuko.flows.MAF, transforms=2, hidden_features=[8]),
    "spline": partial(zuko.flows.NSF, transforms=2, bins=4, hidden_features=[8]),
    "spline coupling": partial(zuko.flows.NSF, transforms=2, bins=4, passes=2, hidden_features=[8]),
}
FIRST_FAST = [next(iter(FAMILIES)), *(pytest.param(name, marks=pytest.mark.slow(10)) for name in [*FAMILIES][1:])]


class OnTheReals(ZukoToPyro):
    """Names its support, which annealing asks for, and keeps it in a plate."""

    support = constraints.real_vector

    def expand(self, *args, **kwargs):
        return OnTheReals(self.dist.expand(*args, **kwargs))


class Wrapped(nn.Module):
    """q(z | x), a flow of zuko's whose context is x."""

    def __init__(self, flow, wrapper=ZukoToPyro):
        super().__init__()
        self.flow, self.wrapper = flow, wrapper

    def forward(self, x):
        return self.wrapper(self.flow(x))


def linear_gaussian(flow, wrapper=ZukoToPyro, num_features=4):
    """A linear decoder with Gaussian noise, whose evidence is known, and a guide of zuko's."""
    decoder = nn.Linear(2, num_features)
    return VAE(StandardNormal(2), Gaussian(decoder, event_dim=1), Wrapped(flow, wrapper))


def exact(pair, x):
    decoder, sigma = pair.likelihood.network, pair.likelihood(torch.zeros(2)).base_dist.scale
    covariance = decoder.weight @ decoder.weight.T + sigma.square().diag()
    return torch.distributions.MultivariateNormal(decoder.bias, covariance).log_prob(x).detach()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("family", FIRST_FAST)
def test_weights_of_its_draws_give_the_evidence(family):
    torch.manual_seed(0)
    pair, x = linear_gaussian(FAMILIES[family](2, 4)), torch.randn(10, 4)
    pair.check(x)
    assert pair.particles == "leading"
    found = log_evidence(pair, x, "iwae", 2000, seed=0, progress=False)
    assert ((found.estimate - exact(pair, x)).abs() < 4.5 * found.std_error).all()


@pytest.mark.usefixtures("float64")
def test_annealing_asks_for_a_support():
    torch.manual_seed(0)
    flow, x = FAMILIES["autoregressive"](2, 4), torch.randn(10, 4)
    with pytest.raises(ContractError, match="give the distribution a `support`"):
        log_evidence(linear_gaussian(flow), x, "ais", annealing=AIS(4, 5), progress=False)
    pair = linear_gaussian(flow, OnTheReals)
    found = log_evidence(pair, x, "ais", annealing=AIS(16, 30), seed=0, progress=False)
    assert ((found.estimate - exact(pair, x)).abs() < 4.5 * found.std_error).all()


@pytest.mark.parametrize("family", FIRST_FAST)
def test_a_recorded_step_is_the_eager_one(monkeypatch, caplog, family):
    run_as_traced(monkeypatch)
    assert_same(lambda: linear_gaussian(FAMILIES[family](2, 4)), ELBO(), caplog)


@pytest.mark.slow(60)
def test_a_compiled_step_is_the_eager_one(caplog):
    assert_same(lambda: linear_gaussian(FAMILIES["autoregressive"](2, 4)), ELBO(), caplog)


def test_a_coupling_by_masks_trains_uncompiled(caplog):
    """zuko's NICE selects entries by a mask, whose number a recorded program cannot know."""
    _, run = trained(lambda: linear_gaussian(zuko.flows.NICE(2, 4, transforms=2, hidden_features=[8])), ELBO(), True)
    assert run.stopped == "completed"
    assert "training goes on uncompiled" in caplog.text
