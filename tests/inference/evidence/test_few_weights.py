"""The error bar of the log of the mean of few, nearly lognormal weights, against what repetitions show."""

import math

import pytest
import torch

from ppvae.inference.evidence.few_weights import (
    MOST_STD_ERROR,
    std_error,
    student,
    variance_of_logs,
    variances_drawn_together,
)

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


def lognormal(variance):
    """Logs of 16 weights with mean one for each data point, of the given variances `[N]`."""
    spread = variance.sqrt()[:, None]
    return spread * torch.randn(len(variance), 16) - spread.square() / 2


def z_scores(log_w):
    """Of what is trusted, errors in standard errors."""
    error = std_error(log_w)
    trusted = error <= MOST_STD_ERROR
    return ((log_w.logsumexp(1) - math.log(16)) / error)[trusted]


@pytest.mark.parametrize("variance", [0.01, 0.1, 0.5, 1.0, 1.5])
def test_what_is_trusted_is_covered(variance):
    """Data points where no weight happens to be large look precise, one by one, and are too low."""
    z = z_scores(lognormal(torch.full((REPEATS,), variance)))
    assert len(z) > 0.6 * REPEATS
    assert 0.94 < (z.abs() < 1.96).double().mean() < 0.975


@pytest.mark.parametrize("variance", [2.0, 3.0, 5.0])
def test_nothing_is_trusted_where_all_weights_are_too_uneven(variance):
    assert not len(z_scores(lognormal(torch.full((REPEATS,), variance))))


def test_one_by_one_uneven_weights_deceive():
    """Of log weights of variance 2, two fifths of the means would be trusted, and 79% of these covered."""
    z = torch.cat([z_scores(row[None]) for row in lognormal(torch.full((2000,), 2.0))])
    assert 0.35 < len(z) / 2000 < 0.5
    assert (z.abs() < 1.96).double().mean() < 0.85


@pytest.mark.parametrize(("spread", "least"), [(0.5, 0.935), (1.0, 0.92)])
def test_what_is_trusted_of_unlike_data_is_covered(spread, least):
    z = z_scores(lognormal(0.5 * (spread * torch.randn(REPEATS)).exp()))
    assert len(z) > 0.85 * REPEATS
    assert least < (z.abs() < 1.96).double().mean() < 0.97


def test_a_data_point_unlike_the_others_keeps_its_error():
    """But for Student's factor, which is its own where it is alone: no variance is drawn down."""
    uneven = 2 * torch.special.ndtri((torch.arange(16.0) + 0.5) / 16)
    log_w = torch.cat([lognormal(torch.full((100,), 0.1)), uneven[None]])
    alone, together = std_error(log_w[-1:]), std_error(log_w)[-1:]
    variance, degrees = variance_of_logs(uneven[None])
    torch.testing.assert_close(alone, student(degrees) * (variance.expm1() / 16).sqrt())
    torch.testing.assert_close(together, (variance.expm1() / 16).sqrt())


@pytest.mark.parametrize("prior", [4.0, 20.0])
def test_variances_are_drawn_together_as_far_as_they_differ_by_chance(prior):
    """Scaled inverse chi-squared ones, estimated with 10 degrees of freedom: what is known of each adds up."""
    true = 0.3 * prior / torch.distributions.Chi2(torch.tensor(prior)).sample((REPEATS,))
    found = true * torch.distributions.Chi2(torch.tensor(10.0)).sample((REPEATS,)) / 10
    drawn, degrees = variances_drawn_together(found, torch.full((REPEATS,), 10.0))
    assert degrees.unique().item() == pytest.approx(10 + prior, rel=0.06)
    torch.testing.assert_close(drawn, (prior * 0.3 + 10 * found) / (10 + prior), rtol=0.06, atol=0)


def test_equal_variances_are_one():
    found = 0.3 * torch.distributions.Chi2(torch.tensor(10.0)).sample((REPEATS,)) / 10
    drawn, degrees = variances_drawn_together(found, torch.full((REPEATS,), 10.0))
    assert degrees.min() > 500
    torch.testing.assert_close(drawn, torch.full((REPEATS,), 0.3), rtol=0.1, atol=0)


def test_weights_that_are_all_the_same_have_no_error():
    log_w = torch.zeros(5, 16)
    assert torch.equal(std_error(log_w), torch.zeros(5))
    assert std_error(torch.zeros(5, 1)).isnan().all()
