"""The ELBO by one term for each data point: unbiased in value and gradient, and one run of the network."""

import pytest
import torch
from support.compiled_runs import assert_same, run_as_traced
from support.diffusion_oracle import exact_elbo, integrated_terms, optimal
from torch import nn

import ppvae
from ppvae import ContractError, Pair, SingleTermELBO
from ppvae.models import DiffusionVAE, LinearVAE, MLPDenoiser


@pytest.mark.parametrize("variance", ["posterior", "upper"])
def test_gradient_has_the_exact_mean(variance, float64):
    """To rounding, also along a schedule that is learned, which guide and model share."""
    pair, x = optimal(4, "learned", "v", variance), torch.randn(5, 3)
    for p in pair.parameters():
        p.data += 0.1 * torch.randn_like(p)
    parameters = list(pair.parameters())
    expected = torch.autograd.grad(exact_elbo(pair, x).mean(), parameters)
    found = torch.autograd.grad(4 * integrated_terms(pair, x).mean(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


class Recorder(Pair):
    """Its terms are their own numbers."""

    num_terms = 7

    def elbo_term(self, x, index):
        return index.to(x)


@pytest.mark.slow(3)
@pytest.mark.parametrize("stratified", [True, False])
def test_every_term_is_as_likely_for_every_data_point(stratified, float64):
    x = torch.zeros(14)
    objective = SingleTermELBO(stratified=stratified)
    terms = torch.stack([objective(Recorder(), x)[0] / 7 for _ in range(7000)]).long()
    counts = torch.stack([(terms == i).sum(0) for i in range(7)]).double()
    assert counts.sum() == 7000 * 14
    z = (counts - 1000) / (7000 / 7 * 6 / 7) ** 0.5
    assert z.abs().max() < 4.5
    per_batch = torch.stack([(terms == i).sum(1) for i in range(7)])
    assert (per_batch == 2).all() == stratified


def test_more_draws_spread_over_the_terms_of_each_data_point():
    """Seven draws of seven terms are each of them once, whose mean is 3."""
    value, _ = SingleTermELBO(num_particles=7)(Recorder(), torch.zeros(5))
    assert torch.equal(value / 7, torch.full((5,), 3.0))


def test_stratified_batches_have_less_noise(float64):
    pair, x = optimal(50), torch.randn(100, 3)
    with torch.no_grad():
        means = [torch.stack([SingleTermELBO(stratified=s)(pair, x)[1] for _ in range(300)]) for s in (True, False)]
    assert means[0].var() < 0.2 * means[1].var()  # measured: 0.09


class Counting(nn.Module):
    """Counts how many noisy data points the network sees."""

    def __init__(self):
        super().__init__()
        self.network, self.seen = MLPDenoiser(4, [8]), 0

    def forward(self, x, gamma):
        self.seen += x.shape[:-1].numel()
        return self.network(x, gamma)


def test_a_step_runs_the_network_once_for_each_data_point():
    pair, x = DiffusionVAE(Counting(), [4], 30), torch.randn(20, 4)
    for objective, runs in ((SingleTermELBO(), 1), (ppvae.ELBO(kl="monte_carlo"), 30)):
        pair.denoiser.seen = 0
        objective(pair, x)
        assert pair.denoiser.seen == 20 * runs


def test_data_are_checked_by_single_terms_too():
    """Before training, at the cost of one term for each data point; pair.check runs all steps, on seven rows."""
    pair, x = DiffusionVAE(Counting(), [4], 30), torch.randn(2000, 4)
    pair.check(x)
    pair.denoiser.seen = 0
    pair.check(x)
    checks = pair.denoiser.seen
    pair.denoiser.seen = 0
    ppvae.fit(pair, x, SingleTermELBO(), steps=1, batch_size=100, progress=False)
    assert pair.denoiser.seen == checks + 100 + 2000 + 100


def test_a_data_point_outside_the_support_is_named():
    pair = DiffusionVAE(MLPDenoiser(4, [8]), [4], 30, "bernoulli")
    x = torch.rand(200, 4).round()
    x[130, 2] = 0.5
    with pytest.raises(ValueError, match="data: found data point 130 outside the model's support"):
        ppvae.fit(pair, x, SingleTermELBO(), steps=1, progress=False)


def test_refusals():
    with pytest.raises(ValueError, match="num_particles: found 0, expected at least 1"):
        SingleTermELBO(num_particles=0)
    with pytest.raises(ContractError, match="LinearVAE: found no `num_terms` and `elbo_term`, expected a pair that"):
        SingleTermELBO()(LinearVAE(4, 2), torch.randn(3, 4))


def trained(pair):
    x = torch.distributions.MultivariateNormal(torch.zeros(3), pair.denoiser.S).sample((4000,))
    before = exact_elbo(pair, x).mean()
    settings = {"steps": 300, "batch_size": 200, "lr": 0.02, "schedule": lambda done: 1 - done, "progress": False}
    ppvae.fit(pair, x, SingleTermELBO(), **settings)
    return x, before, exact_elbo(pair, x).mean()


def test_training_finds_the_optimal_denoiser(float64):
    pair = optimal(8)
    pair.denoiser.gain.data.fill_(0.3)
    x, before, after = trained(pair)
    reachable = exact_elbo(optimal(8), x).mean()
    assert before < reachable - 10
    assert abs(after - reachable) < 1e-3


def test_a_schedule_is_learned_along(float64):
    """The levels of an optimal denoiser move to where they help."""
    _, before, after = trained(optimal(8, "learned"))
    assert after > before + 0.02  # measured: 0.04


@pytest.mark.slow(6)
def test_compiled_training_is_the_same(caplog, monkeypatch):
    run_as_traced(monkeypatch)

    def make():
        return DiffusionVAE(MLPDenoiser(4, [8]), [4], 30, schedule="learned")

    assert_same(make, SingleTermELBO(), caplog)
