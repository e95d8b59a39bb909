"""Schedules against the formulas of their papers, and the formulas of the parameterizations against one another."""

import math
from itertools import pairwise

import pytest
import torch

from ppvae.models import CosineSchedule, LearnedSchedule, LinearSchedule
from ppvae.models.diffusion.noising import PARAMETERIZATIONS, less_noised, noise, noised, renewed, signal

pytestmark = pytest.mark.usefixtures("float64")

TIMES = torch.arange(1, 1001, dtype=torch.float64) / 1000


def test_cosine_is_nichol_and_dhariwals():
    f = ((TIMES + 0.008) / 1.008 * math.pi / 2).cos().square() / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close((-CosineSchedule()(TIMES)).sigmoid(), (1 - 1e-5) * f + 1e-5)


def test_linear_is_the_limit_of_ddpms():
    """Of T betas that rise linearly to 20 / T, whose product comes closer like 1 / T."""
    errors = []
    for T in (1000, 2000, 4000):
        betas = torch.linspace(0.1, 20.0, T) / T
        alpha_bar = (1 - betas).log().cumsum(0)
        ours = -torch.nn.functional.softplus(LinearSchedule()(torch.arange(1, T + 1) / T))
        errors.append((ours - alpha_bar).abs().max())
    assert errors[0] < 0.12
    for coarse, fine in pairwise(errors):
        assert abs(coarse / fine - 2) < 0.05


def test_single_precision_keeps_the_first_levels():
    """Where 1 - alpha^2 is 1e-4 or less, and would be lost by subtraction."""
    for schedule in (CosineSchedule(), LinearSchedule()):
        first = TIMES[:100]
        torch.testing.assert_close(schedule(first.float()).double(), schedule(first), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1000, 4000, 20_000])
@pytest.mark.parametrize("schedule", [CosineSchedule, LinearSchedule, LearnedSchedule])
def test_each_of_many_steps_adds_noise_in_single_precision(schedule, num_steps):
    gamma = schedule().float()(torch.arange(1, num_steps + 1).float() / num_steps)
    assert (renewed(gamma[:-1], gamma[1:]) > 0).all()


def test_single_precision_keeps_the_last_levels_of_a_steep_schedule():
    """The exponential of the noise that is added is not a number of that precision."""
    u, schedule = torch.linspace(0.1, 1, 10), LinearSchedule(end=300.0)
    torch.testing.assert_close(schedule(u.float()), schedule(u).float())


def test_learned_schedule_stays_monotone_between_its_ends():
    schedule = LearnedSchedule(start=-8.0, end=5.0)
    start = schedule(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    torch.testing.assert_close(start, torch.tensor([-8.0, -4.75, -1.5, 5.0]), rtol=0, atol=0.2)
    for p in schedule.parameters():
        p.data += 3 * torch.randn_like(p)
    gamma = schedule(torch.linspace(0, 1, 200))
    assert (gamma.diff() > 0).all()
    assert gamma[0] == schedule.start


def test_a_learned_schedule_reaches_any_monotone_shape():
    """By least squares to a curve with two bends."""
    schedule, u = LearnedSchedule(), torch.linspace(0, 1, 50)
    target = -5 + 8 * u + 2 * (12 * (u - 0.3)).tanh()
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.05)
    for _ in range(500):
        loss = (schedule(u) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_levels_compose():
    """`q(x_s | x_t, x) q(x_t | x)` is a joint with the marginal q(x_s | x) and the covariance of added noise."""
    gamma_s, gamma_t, x = torch.tensor(-3.0), torch.tensor(1.5), torch.tensor(0.7)
    top = noised(x, gamma_t)
    at = [less_noised(top.loc + shift, x, gamma_s, gamma_t) for shift in (0.0, 1.0)]
    slope = at[1].loc - at[0].loc
    torch.testing.assert_close(at[0].loc, signal(gamma_s) * x)
    torch.testing.assert_close(at[0].scale ** 2 + slope**2 * top.scale**2, noise(gamma_s) ** 2)
    torch.testing.assert_close(slope * top.scale**2, signal(gamma_t) / signal(gamma_s) * noise(gamma_s) ** 2)


@pytest.mark.parametrize("gamma", [-9.0, 0.0, 9.0])
def test_every_parameterization_gives_x_back(gamma):
    gamma, x, eps = torch.tensor(gamma), torch.randn(5), torch.randn(5)
    x_t = signal(gamma) * x + noise(gamma) * eps
    outputs = {"x": x, "eps": eps, "v": signal(gamma) * eps - noise(gamma) * x}
    assert outputs.keys() == PARAMETERIZATIONS.keys()
    for parameterization, to_x in PARAMETERIZATIONS.items():
        torch.testing.assert_close(to_x(outputs[parameterization], x_t, gamma), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(start=0.0), r"start: found 0\.0, expected above 0"),
        (lambda: CosineSchedule(offset=-1.0), r"offset: found -1\.0, expected 0 or more"),
        (lambda: LearnedSchedule(2.0, 1.0), r"end: found 1\.0, expected more than start, 2\.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
