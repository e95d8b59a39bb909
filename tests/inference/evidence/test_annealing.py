"""Annealing with perfect transitions, where both bounds are known, and its schedules."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ppvae.inference.evidence import annealing
from ppvae.inference.evidence.hmc import State

LOG_P = -3.7
"""The joint density is that of N(3, 0.5) times this evidence."""
START, POSTERIOR = Normal(0.0, 1.0), Normal(3.0, 0.5)


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def evaluate(u):
    return State(u[..., None], START.log_prob(u), POSTERIOR.log_prob(u) + LOG_P, u, u)


def at(beta):
    """The normalized density at beta."""
    precision = (1 - beta) + beta / 0.25
    return Normal(beta * 3.0 / 0.25 / precision, precision**-0.5)


def perfect(betas):
    return lambda state, t: evaluate(at(betas[t]).sample(state.log_joint.shape))


@pytest.mark.parametrize("schedule", [annealing.linear, annealing.sigmoid])
@pytest.mark.parametrize("num", [2, 8])
def test_perfect_transitions_fall_short_by_sums_of_divergences(schedule, num, assert_mean):
    """Oracle: one chain's lower gap is sum KL(pi_{t-1} || pi_t), its upper gap sum KL(pi_t || pi_{t-1})."""
    betas = schedule(num).double()
    path = [at(beta) for beta in betas]
    below = sum(kl_divergence(a, b) for a, b in pairwise(path))
    above = sum(kl_divergence(b, a) for a, b in pairwise(path))
    shape = (20_000, 1)
    _, forward = annealing.forward(evaluate(START.sample(shape)), betas, perfect(betas))
    _, backward = annealing.backward(evaluate(POSTERIOR.sample(shape)), betas, perfect(betas))
    assert_mean(forward, LOG_P - below)
    assert_mean(-backward, LOG_P + above)
    if num == 8:  # else the weights' variance is too large to see it
        assert_mean((forward - LOG_P).exp(), 1.0)


def test_the_last_state_is_the_posterior(assert_mean):
    betas = annealing.linear(4).double()
    state, _ = annealing.forward(evaluate(START.sample((20_000, 1))), betas, perfect(betas))
    assert_mean(state.position[:, 0, 0], 3.0)


@pytest.mark.parametrize("schedule", [annealing.linear, annealing.sigmoid])
def test_schedules_rise_from_zero_to_one(schedule):
    betas = schedule(50)
    assert len(betas) == 51
    assert betas[[0, -1]].tolist() == [0.0, 1.0]
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51), check_dtype=False)


def test_sigmoid_is_slow_at_the_ends():
    steps = annealing.sigmoid(100).diff()
    assert steps[0] < steps[50] / 10


def test_equal_steps_cost_the_same():
    """With `sd_beta(log ratio)` in closed form: each step is as long as the others."""
    grid = torch.linspace(0, 1, 401)
    spread = torch.stack([spread_at(beta) for beta in grid])
    betas = annealing.equal_steps(20, grid, torch.stack([spread, 5 * spread], 1))
    assert betas.shape == (21, 2)
    torch.testing.assert_close(betas[:, 0], betas[:, 1])
    fine = torch.linspace(0, 1, 4001)
    lengths = torch.cumulative_trapezoid(torch.stack([spread_at(beta) for beta in fine]), fine)
    ends = lengths[(betas[1:, 0] * 4000).round().long() - 1]
    torch.testing.assert_close(ends.diff(), torch.full((19,), ends[-1] / 20), rtol=0.03, atol=0)


def spread_at(beta):
    """sd of `log joint - log start = a z^2 + b z + c` under the Gaussian at beta."""
    density, a, b = at(beta), 0.5 - 0.5 / 0.25, 3.0 / 0.25
    return (2 * a**2 * density.variance**2 + (2 * a * density.mean + b) ** 2 * density.variance).sqrt()


def test_an_effective_sample_size_drops_evenly(assert_mean):
    """What the steps are made equal for: K / ESS of each is about 1 + length^2."""
    grid = torch.linspace(0, 1, 401)
    betas = annealing.equal_steps(30, grid, torch.stack([spread_at(beta) for beta in grid])[:, None])[:, 0]
    drops = []
    for low, high in pairwise(betas):
        log_w = (high - low) * evaluate(at(low).sample((200_000,))).log_ratio()
        drops.append(math.log(len(log_w)) - (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)))
    drops = torch.stack(drops)
    assert drops.std() / drops.mean() < 0.15


def test_values_are_read_along_each_schedule():
    seen_at = torch.tensor([0.0, 0.5, 1.0])
    values = torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 2.0]])
    betas = torch.tensor([[0.0, 0.25], [0.75, 0.5], [1.0, 1.0]])
    torch.testing.assert_close(
        annealing.along(betas, seen_at, values), torch.tensor([[0.0, 1.0], [2.5, 2.0], [4.0, 2.0]])
    )
