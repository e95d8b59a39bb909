"""The comparison table: order, signs, paired errors, and what it refuses."""

import pytest
import torch
from support.zoo import ZOO

from ppvae import elbo, log_evidence
from ppvae.inference.evidence.comparison import compare
from ppvae.inference.runtime.records import Measurement
from ppvae.models import VAE, GaussianMixture


def record(estimate, std_error=0.0, warning=""):
    return Measurement(estimate, torch.full_like(estimate, std_error), num_particles=10, method="iwae", warning=warning)


@pytest.fixture
def estimates():
    base = torch.randn(400, dtype=torch.float64) * 10 - 90
    return {"worse": base - 1 + 0.5 * torch.randn(400), "best": base, "worst": base - 20}


def test_best_comes_first_and_differences_are_positive(estimates):
    table = compare({name: record(t) for name, t in estimates.items()})
    assert list(table.index) == ["best", "worse", "worst"]
    assert list(table["rank"]) == [0, 1, 2]
    for name, t in estimates.items():
        assert table.elpd[name] == pytest.approx(t.sum().item())
        assert table.elpd_diff[name] == pytest.approx((estimates["best"] - t).sum().item())
    assert table.elpd_diff["best"] == table.dse["best"] == 0


def test_differences_are_paired(estimates):
    table = compare({name: record(t) for name, t in estimates.items()})
    assert table.se["worse"] == pytest.approx(20 * estimates["worse"].std().item())
    assert table.dse["worse"] == pytest.approx(20 * (estimates["best"] - estimates["worse"]).std().item())
    assert table.dse["worse"] < table.se["worse"] / 10


def test_paired_error_is_that_of_repeated_data(assert_mean):
    """`dse^2` is the variance of `elpd_diff` over data sets."""
    squares = []
    for _ in range(300):
        base = torch.randn(50)
        table = compare({"a": record(base + 10), "b": record(base + 0.3 * torch.randn(50))})
        squares.append([(table.elpd_diff["b"] - 500) ** 2, table.dse["b"] ** 2])
    error, claimed = torch.tensor(squares).T
    assert_mean(error - claimed, 0.0)


def test_monte_carlo_error_warning_and_method_are_carried(estimates):
    table = compare({"best": record(estimates["best"], 0.3), "worse": record(estimates["worse"], warning="k-hat")})
    assert table.monte_carlo_error["best"] == pytest.approx(0.3 * 20)
    assert list(table.warning) == [False, True]
    assert list(table.method) == ["iwae", "iwae"]


@pytest.mark.parametrize("records", [{}, {"a": record(torch.zeros(3)), "b": record(torch.zeros(4))}])
def test_other_data_are_refused(records):
    with pytest.raises(ValueError, match="expected at least one record and the same data points in all"):
        compare(records)


@pytest.mark.parametrize("bad", [torch.tensor([-1.0, torch.nan]), torch.zeros(0)])
def test_records_without_numbers_have_no_rank(bad):
    with pytest.raises(
        ValueError, match=r"evidences: found a record of 'b' with . data points, . of them not a number"
    ):
        compare({"a": record(torch.arange(len(bad)).double()), "b": record(bad)} if len(bad) else {"b": record(bad)})


def test_nats_per_data_point_stand_beside_the_sum(estimates):
    table = compare({name: record(t) for name, t in estimates.items()})
    for name in estimates:
        assert table["mean"][name] == pytest.approx(table.elpd[name] / 400)
        assert table.mean_diff[name] == pytest.approx(table.elpd_diff[name] / 400)


def bits(num):
    return (torch.rand(num, 4) < 0.5).float()


KINDS = {
    "density of 4 numbers": lambda x: GaussianMixture(2, 4),
    "probability": lambda x: VAE.mlp(4, 2, [5], "bernoulli"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_records_know_what_they_are_of(kind):
    x = bits(20)
    pair = KINDS[kind](x)
    assert log_evidence(pair, x, num_particles=50, progress=False).kind == kind
    assert elbo(pair, x, 50, progress=False).kind == kind


def test_a_dequantized_density_is_a_probability():
    pair, x = ZOO["dequantized"].make()
    assert elbo(pair, x, 20, progress=False).kind == "probability"


def test_densities_are_no_rivals_of_probabilities():
    """A Gaussian mixture has any density that one likes on bits."""
    x = bits(20)
    found = {kind: log_evidence(pair(x), x, "iwae", 50, progress=False) for kind, pair in KINDS.items()}
    with pytest.raises(ValueError, match=r"'density of 4 numbers' has a density of 4 numbers, 'probability' has a"):
        compare(found)
    assert len(compare({"once": found["probability"], "again": found["probability"]})) == 2


def test_all_columns_are_printed():
    """pandas leaves out those in the middle of a frame wider than its line."""
    table = compare({name: record(torch.randn(20)) for name in ("a model with a long name", "another")})
    for shown in (str(table), repr(table), str(table.round(2)), str(table.sort_values("mean"))):
        assert "..." not in shown
        assert all(column in shown for column in table.columns)
        assert len(shown.splitlines()) == 3
