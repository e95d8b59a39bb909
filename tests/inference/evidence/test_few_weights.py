"""The error bar of the log of the mean of few, nearly lognormal weights, against what repetitions show."""

import pytest
import torch

from ppvae.inference.evidence.ais import std_error

REPEATS, STUDENT_16 = 20_000, 2.1314 / 1.9600


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0])
def test_errors_are_of_the_size_that_repetitions_show(spread):
    """Nor do they explode where the weights are uneven: the log of a mean varies no more than one of its terms."""
    log_w = spread * torch.randn(REPEATS, 16)
    shown = log_w.logsumexp(1).std()
    found = std_error(log_w).square().mean().sqrt() / STUDENT_16
    assert 0.9 * shown < found < 1.7 * shown
