"""Smoothed bits: densities against integrals and sums over all bits, and gradients that follow the draws."""

import math

import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, Bernoulli, RestrictedBoltzmann, SmoothedBits, SmoothedBoltzmann
from ppvae.models.codes import boltzmann
from ppvae.models.codes.smoothed_bits import SmoothedBernoulli

pytestmark = pytest.mark.usefixtures("float64")
BETA = 4.0
NODES = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
GRID = torch.cartesian_prod(NODES, NODES)


def smoothed(zeta, z, beta=BETA):
    """`prod_i r(zeta_i | z_i)`."""
    density = beta * torch.where(z > 0, (beta * (zeta - 1)).exp(), (-beta * zeta).exp()) / (1 - math.exp(-beta))
    return density.prod(-1)


def prior(num_left=1, num_right=1, beta=BETA):
    machine = RestrictedBoltzmann(num_left, num_right)
    for parameter in machine.parameters():
        nn.init.normal_(parameter)
    return SmoothedBoltzmann(machine, beta)


def states(num):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * num)


def test_the_priors_density_is_the_sum_over_all_bits():
    p, zeta = prior(3, 2), torch.rand(7, 5)
    by_hand = sum(p.machine().log_prob(z).exp() * smoothed(zeta, z) for z in states(5))
    torch.testing.assert_close(p().log_prob(zeta), by_hand.log())


def test_the_priors_density_integrates_to_one_and_is_that_of_its_draws(assert_mean):
    p = prior()
    density = p().log_prob(GRID).exp().detach() / 400**2
    torch.testing.assert_close(density.sum(), torch.tensor(1.0), rtol=0, atol=1e-4)
    drawn = p().sample((20_000,))
    for statistic in (lambda z: z, lambda z: z.prod(-1, keepdim=True), torch.cos):
        assert_mean(statistic(drawn), density @ statistic(GRID), k=4.5)


@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 1.0, 30.0])
def test_a_smoothed_bit_is_what_it_says(logit, assert_mean):
    q = SmoothedBernoulli(torch.tensor(logit), BETA)
    one = torch.tensor(logit).sigmoid()
    by_hand = (1 - one) * smoothed(NODES[:, None], torch.zeros(1)) + one * smoothed(NODES[:, None], torch.ones(1))
    torch.testing.assert_close(q.log_prob(NODES).exp(), by_hand)
    torch.testing.assert_close(q.mean, (by_hand * NODES).mean(), rtol=1e-4, atol=1e-5)
    drawn = q.sample((20_000,)).unsqueeze(-1)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    for statistic in (lambda z: z, lambda z: z.square(), torch.cos):
        assert_mean(statistic(drawn), (by_hand * statistic(NODES)).mean().expand(1), k=4.5)


@pytest.mark.parametrize("logit", [-4.0, 0.0, 2.0])
def test_gradients_follow_the_draws(logit, assert_mean):
    """`d E f(zeta) / d logit`, by integration, is the mean of those through the draws."""
    logits = torch.full((40_000,), logit, requires_grad=True)
    zeta = SmoothedBernoulli(logits, BETA).rsample()
    (found,) = torch.autograd.grad((zeta**3).sum(), logits)
    one = torch.tensor(logit, requires_grad=True)
    r0, r1 = (smoothed(NODES[:, None], z) for z in (torch.zeros(1), torch.ones(1)))
    integral = (((1 - one.sigmoid()) * r0 + one.sigmoid() * r1) * NODES**3).mean()
    assert_mean(found.unsqueeze(-1), torch.autograd.grad(integral, one)[0].expand(1), k=4.5)


def pair(beta=BETA):
    torch.manual_seed(1)
    return VAE(prior(beta=beta), Bernoulli(nn.Linear(2, 4)), SmoothedBits(nn.Linear(4, 2), beta)).eval()


@pytest.mark.slow(5)
def test_the_evidence_is_the_smoothed_models():
    """By integration over both latents; importance weights and AIS find it."""
    own, x = pair(), torch.rand(3, 4).round()
    joint = own.likelihood(GRID[:, None]).log_prob(x) + own.prior().log_prob(GRID)[:, None]
    exact = joint.logsumexp(0).detach() - 2 * math.log(400)
    for found in (
        ppvae.log_evidence(own, x, "iwae", 20_000, seed=0, progress=False),
        ppvae.log_evidence(own, x, "ais", annealing=ppvae.AIS(64, 50), seed=0, progress=False),
    ):
        assert ((found.estimate - exact).abs() < 4.5 * found.std_error + 1e-4).all()


@pytest.mark.slow(3)
def test_a_steep_smoothing_is_nearly_the_discrete_model():
    x, gaps = torch.rand(3, 4).round(), []
    for beta in (5.0, 15.0, 45.0):
        own = pair(beta)
        log_p = own.likelihood(states(2)[:, None]).log_prob(x) + own.prior.machine().log_prob(states(2))[:, None]
        found = ppvae.log_evidence(own, x, "iwae", 20_000, seed=0, progress=False)
        gaps.append((found.estimate - log_p.logsumexp(0)).abs().mean().item())
    assert gaps[2] < gaps[1] / 2 < gaps[0] / 4


def test_training_raises_the_bound():
    x = (torch.randn(200, 2) @ torch.randn(2, 6) > 0).to(torch.get_default_dtype())
    own = VAE(prior(2, 3), Bernoulli(nn.Linear(5, 6)), SmoothedBits(nn.Linear(6, 5), BETA))
    before = ppvae.elbo(own, x, seed=0, progress=False).mean()
    ppvae.fit(own, x, epochs=50, batch_size=50, lr=0.03, progress=False)
    assert ppvae.elbo(own, x, seed=0, progress=False).mean().estimate > before.estimate + 1


def test_a_machine_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(boltzmann, "MOST_UNITS", 2)
    with pytest.raises(ValueError, match="machine: found layers of 3 and 4, expected one of 20 at most"):
        SmoothedBoltzmann(RestrictedBoltzmann(3, 4))
