"""Bits with a Boltzmann machine for a prior, against all 2^8 states, one by one."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, Bernoulli, IndependentBits, RestrictedBoltzmann

pytestmark = pytest.mark.usefixtures("float64")
SIZES = [(3, 5), (5, 3)]


def machine(num_left, num_right):
    prior = RestrictedBoltzmann(num_left, num_right)
    for parameter in prior.parameters():
        nn.init.normal_(parameter)
    return prior


def states(num):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * num)


def energies(prior, z):
    u, v = z.split([len(prior.left), len(prior.right)], -1)
    return -(torch.einsum("ni,ij,nj->n", u, prior.weight, v) + u @ prior.left + v @ prior.right)


@pytest.mark.parametrize("sizes", SIZES)
def test_log_z_is_the_sum_over_all_states(sizes):
    prior, every = machine(*sizes), states(8)
    torch.testing.assert_close(prior().log_partition(), (-energies(prior, every)).logsumexp(0))
    torch.testing.assert_close(prior().log_prob(every), (-energies(prior, every)).log_softmax(0))


@pytest.mark.parametrize("sizes", SIZES)
def test_the_gradient_of_log_z_is_the_moments(sizes):
    prior, every = machine(*sizes), states(8)
    probability = prior().log_prob(every).exp().detach()
    u, v = every.split(list(sizes), -1)
    found = torch.autograd.grad(prior().log_partition(), [prior.weight, prior.left, prior.right])
    moments = torch.einsum("n,ni,nj->ij", probability, u, v), probability @ u, probability @ v
    for a, b in zip(found, moments, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sizes", SIZES)
def test_draws_have_the_moments(sizes, assert_mean):
    prior, every = machine(*sizes), states(8)
    drawn = prior().sample((20_000,))
    assert_mean(drawn, prior().log_prob(every).exp().detach() @ every)
    u, v = drawn.split(list(sizes), -1)
    own_u, own_v = every.split(list(sizes), -1)
    pairs = torch.einsum("n,ni,nj->ij", prior().log_prob(every).exp().detach(), own_u, own_v)
    assert_mean(u.unsqueeze(-1) * v.unsqueeze(-2), pairs)


def test_without_weights_bits_are_independent():
    prior = machine(3, 5)
    prior.weight.data.zero_()
    alone = dist.Bernoulli(logits=torch.cat([prior.left, prior.right])).to_event(1)
    torch.testing.assert_close(prior().log_prob(states(8)), alone.log_prob(states(8)))


def pair():
    return VAE(machine(3, 5), Bernoulli(nn.Linear(8, 6)), IndependentBits(nn.Linear(6, 8)))


def test_the_discrete_vaes_weights_have_the_mean_of_all_states(assert_mean):
    own, x = pair().eval(), torch.rand(4, 6).round()
    log_likelihood = own.likelihood(states(8)[:, None]).log_prob(x)
    exact = (log_likelihood + own.prior().log_prob(states(8))[:, None]).logsumexp(0).detach()
    with torch.no_grad():
        log_w = own.log_weights(x, 20_000).log_w
    assert_mean((log_w - exact).exp(), 1.0)
    found = ppvae.log_evidence(own, x, "iwae", 20_000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 4 * found.std_error).all()


@pytest.mark.parametrize("objective", [ppvae.VIMCO(5), ppvae.ELBO(5), ppvae.GumbelSoftmaxELBO(2)])
def test_the_discrete_vae_trains(objective):
    x = (torch.randn(200, 2) @ torch.randn(2, 6) > 0).to(torch.get_default_dtype())
    own = pair()
    before = ppvae.elbo(own, x, seed=0, progress=False).mean()
    ppvae.fit(own, x, objective, epochs=30, batch_size=50, lr=0.02, progress=False)
    after = ppvae.elbo(own, x, seed=0, progress=False).mean()
    assert after.estimate > before.estimate + 1


def test_two_large_layers_are_refused():
    with pytest.raises(ValueError, match="found 21 and 30, expected one of 20 at most"):
        RestrictedBoltzmann(21, 30)
