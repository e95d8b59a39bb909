"""When a line is a cause, and in how few data points it is said to lie, by costs that are known."""

import math
import re

import pytest
import torch

from ppvae.inference.ledger.cause import is_significant, significant
from ppvae.inference.runtime.records import Measurement

NUM = 400


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def points_with_half(cost, noise):
    """In how many data points half of a measured cost is said to lie."""
    measured = Measurement(cost + noise * torch.randn(NUM), torch.full((NUM,), noise), 100, "made up")
    (cause,) = significant("made up", measured, lambda nats: f"{nats:.2f}.", "None.")
    return int(re.search(r"Half of it lies in (\d+) of the 400 data points", cause.says)[1])


COSTS = {"all alike": torch.ones(NUM), "half of them": 2.0 * (torch.arange(NUM) < 200), "few": torch.zeros(NUM)}
COSTS["few"][:10] = 40.0
EXACT = {"all alike": 200, "half of them": 100, "few": 5}


@pytest.mark.parametrize("name", list(COSTS))
def test_half_of_a_known_cost(name):
    assert points_with_half(COSTS[name], 0.0) == EXACT[name]


@pytest.mark.parametrize(
    ("name", "noise", "least", "most"),
    [
        ("all alike", 0.5, 170, 201),  # the noisy estimates themselves would say 130
        ("all alike", 2.0, 120, 201),  # 70
        ("half of them", 2.0, 80, 115),  # 69
        ("few", 0.5, 5, 8),
    ],
)
def test_noise_does_not_make_a_cost_lie_in_few_data_points(name, noise, least, most):
    found = [points_with_half(COSTS[name], noise) for seed in range(10) if torch.manual_seed(seed)]
    assert least <= sum(found) / 10 <= most


def test_one_draw_which_has_no_error_shows_no_cause():
    line = Measurement(torch.ones(5), torch.full((5,), math.nan), 1, "made up")
    assert not is_significant(line)
    assert significant("made up", line, str, "None.") == []
