"""Bits with a Boltzmann machine for a prior, against all 2^8 states, one by one."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, Bernoulli, IndependentBits, RestrictedBoltzmann
from ppvae.models.codes import boltzmann
from ppvae.models.codes.partition import annealed_log_partition, log_partition

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


# Machines whose log Z is not a sum: small ones that are held to be large, so that the sum is there to compare with.


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(boltzmann, "MOST_UNITS", 0)
    prior = machine(3, 5)
    assert not prior.is_exact
    return prior


def exact(prior):
    return log_partition(prior.weight, prior.left, prior.right).detach()


@pytest.mark.parametrize("seed", range(3))
def test_annealing_finds_log_z_within_its_error(seed):
    prior = machine(6, 9)
    found, error = annealed_log_partition(2 * prior.weight.detach(), prior.left, prior.right, seed)
    assert 0 < error < 0.2
    assert abs(found - log_partition(2 * prior.weight, prior.left, prior.right)) < 4 * error


def test_without_weights_annealing_is_exact():
    prior = machine(3, 5)
    prior.weight.data.zero_()
    found, error = annealed_log_partition(prior.weight, prior.left, prior.right)
    torch.testing.assert_close(found, exact(prior))
    assert error < 1e-12


def test_in_evaluation_log_z_is_that_of_the_parameters_as_they_are(large):
    for _ in range(2):
        p = large.eval()()
        assert 0 < large.shared_std_error < 0.2
        assert abs(p.log_partition() - exact(large)) < 4 * large.shared_std_error
        assert torch.equal(large().log_partition(), p.log_partition())
        large.weight.data.mul_(0.5)


def test_the_gradient_of_a_large_machine_is_the_moments_of_its_chains(large):
    chains = large.train()().known[1]
    u, v = chains.split([3, 5], -1)
    found = torch.autograd.grad(large().log_partition(), [large.weight, large.left, large.right])
    assert not torch.equal(large.chains, chains), "chains move"
    u, v = large.chains.split([3, 5], -1)
    for a, b in zip(found, (u.T @ v / 100, u.mean(0), v.mean(0)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_sweep_leaves_the_distribution_as_it_is(large, assert_mean):
    probability = (-energies(large, states(8))).softmax(0).detach()
    start = states(8)[torch.multinomial(probability, 20_000, replacement=True)]
    swept = large._swept(start)
    assert (swept != start).any(-1).double().mean() > 0.5
    assert_mean(swept, probability @ states(8))
    drawn = large.eval()().sample((20_000,))
    assert_mean(drawn, probability @ states(8))


@pytest.mark.slow(10)
def test_persistent_chains_train_a_machine(large):
    """To the distribution of data of its own kind: its divergence falls to a twentieth."""
    truth, own = machine(3, 5), large
    p = (-energies(truth, states(8))).softmax(0).detach()
    own.weight.data.zero_()

    def divergence():
        return (p * (p.log() - (-energies(own, states(8))).log_softmax(0))).sum().item()

    before = divergence()
    optimizer = torch.optim.Adam(own.parameters(), lr=0.02)
    for step in range(2000):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 2000)
        optimizer.zero_grad()
        (-(p @ own.train()().log_prob(states(8)))).backward()
        optimizer.step()
    assert 0 < divergence() < before / 20


@pytest.mark.slow(12)
def test_the_ledger_has_a_line_for_the_error_of_log_z(large):
    """And evidence is off by no more than that and its own error; the gap does not know log Z at all."""
    own = VAE(large, Bernoulli(nn.Linear(8, 6)), IndependentBits(nn.Linear(6, 8))).eval()
    x = torch.rand(4, 6).round()
    log_p = own.likelihood(states(8)[:, None]).log_prob(x) - energies(large, states(8))[:, None] - exact(large)
    report = ppvae.gap(own, x, ppvae.Effort("iwae", 20_000, ascent=None), seed=0, progress=False)
    error = report.shared_error.estimate
    torch.testing.assert_close(error, torch.full((4,), large.log_z_error.item(), dtype=torch.float64))
    assert "standard error that all data points share" in report.summary().index
    off = report.log_evidence.estimate - log_p.logsumexp(0).detach()
    assert (off.abs() < 4 * (error + report.log_evidence.std_error)).all()
    assert ppvae.gap(VAE.mlp(6, 2, [4]), x, "quick", seed=0, progress=False).shared_error is None


@pytest.mark.slow(3)
def test_the_pair_of_a_large_machine_trains(large):
    x = (torch.randn(200, 2) @ torch.randn(2, 6) > 0).to(torch.get_default_dtype())
    own = VAE(large, Bernoulli(nn.Linear(8, 6)), IndependentBits(nn.Linear(6, 8)))

    def evidence():
        log_p = own.likelihood(states(8)[:, None]).log_prob(x) - energies(large, states(8))[:, None] - exact(large)
        return log_p.logsumexp(0).mean().item()

    before = evidence()
    ppvae.fit(own, x, ppvae.ELBO(5), epochs=50, batch_size=50, lr=0.03, progress=False)
    assert evidence() > before + 1
