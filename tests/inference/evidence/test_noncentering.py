"""Non-centered latents in AIS: the same densities, chosen where they help, and nothing else changes."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO
from torch import nn

import ppvae
from ppvae import AIS
from ppvae.inference.evidence import annealed_importance
from ppvae.inference.evidence.noncentering import better_noncentered, closely_following, where_possible
from ppvae.latent_view import LatentView
from ppvae.models import LinearVAE

QUIET = {"seed": 0, "progress": False}


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


class Funnel(ppvae.Pair):
    """`z1 ~ N(0, 9)`, `z2 ~ N(0, exp(z1))`, `x ~ N(z2, sigma^2)`; the guide is independent in both."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 3.0))
            z2 = pyro.sample("z2", dist.Normal(0.0, (z1 / 2).exp()))
            pyro.sample("x", dist.Normal(z2, self.sigma), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Normal(x / 2, 1.0))  # in another order than the model's
            pyro.sample("z1", dist.Normal(self.loc, 3.0))

    def log_evidence(self, x):
        """By quadrature over z1."""
        z1 = torch.linspace(-30, 30, 60_001)
        log_joint = dist.Normal(0.0, 3.0).log_prob(z1)
        log_joint = log_joint + dist.Normal(0.0, (z1.exp() + self.sigma**2).sqrt()).log_prob(x[:, None])
        return log_joint.logsumexp(1) + math.log(60 / 60_000)


class Close(ppvae.Pair):
    """`z1 ~ N(0, I)`, `z2 ~ N(z1, 0.02^2 I)`, `x ~ N(z2, sigma^2 I)`, of five dimensions each."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma
        self.scale = nn.Parameter(torch.tensor(0.6))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.02).to_event(1))
            pyro.sample("x", dist.Normal(z2, self.sigma).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x / 2, self.scale).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.02).to_event(1))

    def log_evidence(self, x):
        return dist.Normal(0.0, (1 + 0.02**2 + self.sigma**2) ** 0.5).log_prob(x).sum(1)


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("rows", [None, [True, False, True]])
def test_the_view_has_the_same_weights_and_latents(start, rows):
    pair, x = Funnel(1.0), torch.tensor([0.3, -2.0, 5.0])
    view = LatentView(pair, x, start, {"z2"})
    view = view if rows is None else view.at(torch.tensor(rows))
    weights = pair.log_weights(x, 7)
    u = view.unconstrain(pair, x, weights.latents)
    for site, values in view.latents(pair, x, u).items():
        torch.testing.assert_close(values, weights.latents[site])
    log_start, log_joint = view.densities(pair, x, u)
    if start == "guide":
        torch.testing.assert_close(log_joint - log_start, weights.log_w)
    as_it_is = LatentView(pair, x, start)
    joint = as_it_is.densities(pair, x, as_it_is.unconstrain(pair, x, weights.latents)).log_joint
    log_scale = weights.latents["z1"] / 2 * (1.0 if rows is None else torch.tensor(rows))
    torch.testing.assert_close(log_joint - joint, log_scale)  # the Jacobian


def test_draws_from_the_prior_are_standard_normal():
    pair, x = Funnel(1.0), torch.zeros(2)
    view = LatentView(pair, x, "prior", {"z2"})
    with torch.no_grad():
        u = view.draw(pair, x, 20_000)[..., view.sites["z2"]]
    assert u.mean().item() == pytest.approx(0, abs=4 / 200)
    assert u.square().mean().item() == pytest.approx(1, abs=4 * 2**0.5 / 200)


@pytest.mark.parametrize("name", [name for name in ZOO if "hierarchy" in name])
def test_hierarchies_of_the_zoo_stay_as_they_are(name):
    """Bit for bit: the view is the same one, and no generator has moved."""
    pair, batch = ZOO[name].make()
    pair.eval()
    with torch.no_grad():
        view = LatentView(pair, batch)
        before = torch.get_rng_state()
        assert where_possible(view, pair, batch) is view
    assert torch.equal(torch.get_rng_state(), before)


def test_what_follows_closely_is_found():
    assert closely_following(Funnel(1.0), torch.zeros(2)) == {"z2"}
    assert closely_following(Close(1.0), torch.zeros(2, 5)) == {"z2"}


def test_the_pilot_chooses_for_each_data_point_and_moves_no_generator():
    before = torch.get_rng_state()
    at_as_it_is = torch.tensor([[0.0, 0.0], [0.0, -9.0]])
    found = better_noncentered(Close(1.0), 2, lambda at: at_as_it_is + at * torch.tensor([-1.0, 1.0]) + torch.rand(()))
    assert found.tolist() == [False, True]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow(15)
def test_latents_that_follow_closely_are_to_be_trusted():
    """As they are, AIS from the prior is to be trusted at a fifth of these data points, and off by a nat."""
    pair = Close(1.0)
    x = pair.sample(torch.zeros(30, 5))
    found = ppvae.log_evidence(pair, x, "ais from prior", annealing=AIS(num_temperatures=60, start="prior"), **QUIET)
    z = ((found.estimate - pair.log_evidence(x)) / found.std_error)[found.reliable]
    assert found.reliable.double().mean() > 0.8
    assert z.square().mean() < 1 + 4 * (2 / len(z)) ** 0.5


@pytest.mark.slow(20)
def test_a_funnel_agrees_with_quadrature_where_data_say_much():
    pair = Funnel(0.3)
    x = 0.3 * torch.linspace(-2, 2, 24)
    found = ppvae.log_evidence(pair, x, "ais", annealing=AIS(num_temperatures=150), **QUIET)
    z = ((found.estimate - pair.log_evidence(x)) / found.std_error)[found.reliable]
    assert found.reliable.double().mean() > 0.8
    assert z.square().mean() < 1 + 4 * (2 / len(z)) ** 0.5


@pytest.mark.parametrize("make", [lambda: Close(1.0), lambda: LinearVAE(5, 2)], ids=["a choice of views", "none"])
@pytest.mark.parametrize("settings", [AIS(20, 40), AIS(4, 60), AIS(4, 240)], ids=str)
def test_the_forecast_counts_the_transitions_that_are_taken(make, settings, monkeypatch):
    taken, totals = [], []

    class Counts(annealed_importance.Pace):
        def __init__(self, title, total, *others):
            super().__init__(title, total, *others)
            totals.append(total)

        def __call__(self, num):
            super().__call__(num)
            taken.append(num)

    monkeypatch.setattr(annealed_importance, "Pace", Counts)
    ppvae.log_evidence(make(), torch.randn(3, 5), method="ais", annealing=settings, **QUIET)
    assert sum(taken) == sum(totals)
