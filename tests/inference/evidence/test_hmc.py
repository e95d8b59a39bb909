"""Hamiltonian Monte Carlo against a Gaussian whose moments are known, and its order of accuracy."""

import pytest
import torch

from ppvae.inference.evidence import hmc

PRECISION = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
CHAINS = (200, 3)


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def evaluate(u):
    """A standard normal start, and a joint density that is half the Gaussian's."""
    centered = u - MEAN
    gradient = -centered @ PRECISION
    return hmc.State(
        u, -u.square().sum(-1) / 2, (centered * gradient).sum(-1) / 2 + torch.tensor(0.5).log(), -u, gradient
    )


def moments(beta):
    """Of the density at beta, Gaussian as its ends are."""
    precision = (1 - beta) * torch.eye(2) + beta * PRECISION
    return torch.linalg.solve(precision, beta * PRECISION @ MEAN), torch.linalg.inv(precision)


def start(beta):
    mean, covariance = moments(beta)
    return evaluate(mean + torch.randn(*CHAINS, 2) @ torch.linalg.cholesky(covariance).T)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("step_size", [0.3, 1.2])
def test_the_density_is_left_as_it_is(beta, step_size, assert_mean):
    """Chains that start in it stay in it, though large steps are often rejected."""
    state, mean, covariance = start(beta), *moments(beta)
    for _ in range(20):
        state, info = hmc.step(state, torch.tensor(beta), evaluate, torch.tensor(step_size), torch.ones(2), 4)
    centered = (state.position - mean).flatten(0, 1)
    assert_mean(centered, 0.0)
    assert_mean(centered[:, :, None] * centered[:, None, :], covariance)
    assert (info.acceptance.mean() > 0.9) if step_size == 0.3 else (info.acceptance.mean() < 0.97)
    torch.testing.assert_close(tuple(state), tuple(evaluate(state.position)))


def test_chains_find_the_density(assert_mean):
    state = evaluate(torch.full((*CHAINS, 2), 10.0))
    for _ in range(100):
        state, _ = hmc.step(state, torch.ones(()), evaluate, torch.tensor(0.5), torch.ones(2), 5)
    mean, covariance = moments(1.0)
    centered = (state.position - mean).flatten(0, 1)
    assert_mean(centered, 0.0)
    assert_mean(centered[:, :, None] * centered[:, None, :], covariance)


def test_energy_is_kept_to_second_order():
    """A trajectory of one length in twice as many steps errs by a quarter."""
    errors = []
    for num in (8, 16, 32):
        torch.manual_seed(0)
        _, info = hmc.step(start(1.0), torch.ones(()), evaluate, torch.tensor(1.6 / num), torch.ones(2), num)
        errors.append((1 - info.acceptance).mean())
    rates = torch.stack(errors).log2().diff()
    assert ((rates + 2).abs() < 0.3).all(), rates


def test_step_sizes_adapt_to_each_chain():
    """Per data point of another scale another step size; the acceptance is what was asked for."""
    scales = torch.tensor([0.1, 1.0, 10.0])

    def narrow(u):
        value, gradient = -(u / scales[:, None]).square().sum(-1) / 2, -u / scales[:, None] ** 2
        return hmc.State(u, value, value, gradient, gradient)

    state, log_size = narrow(torch.zeros(50, 3, 5)), torch.zeros(50, 3)
    for i in range(1000):
        state, info = hmc.step(state, torch.ones(3), narrow, log_size.exp(), torch.ones(5), 3)
        log_size = hmc.adapt(log_size, info.acceptance, rate=0.2 / (1 + i / 50))
    accepted = []
    for _ in range(100):
        state, info = hmc.step(state, torch.ones(3), narrow, log_size.exp(), torch.ones(5), 3)
        accepted.append(info.acceptance)
    torch.testing.assert_close(
        torch.stack(accepted).mean((0, 1)), torch.full((3,), hmc.TARGET_ACCEPTANCE), atol=0.03, rtol=0
    )
    ratios = log_size.mean(0).diff().exp()
    torch.testing.assert_close(ratios, torch.full((2,), 10.0), rtol=0.1, atol=0)


def test_divergences_are_counted_and_rejected():
    state = start(1.0)
    moved, info = hmc.step(state, torch.ones(()), evaluate, torch.tensor(50.0), torch.ones(2), 10)
    assert info.divergent.all()
    assert torch.equal(moved.position, state.position)


def test_what_is_not_finite_is_rejected():
    def broken(u):
        return hmc.State(u, *[torch.full_like(v, torch.nan) for v in evaluate(u)[1:]])

    state = start(1.0)
    moved, info = hmc.step(state, torch.ones(()), broken, torch.tensor(0.1), torch.ones(2), 2)
    assert info.divergent.all()
    assert torch.equal(moved.position, state.position)
