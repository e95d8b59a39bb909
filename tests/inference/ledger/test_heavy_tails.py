"""Guides with heavier tails than the posterior: log w has no variance, or no mean, and the ledger says so first."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import scalar_model

import ppvae
from ppvae import Effort, Pair
from ppvae.inference.evidence.heavy_tails import lower_khat, warning_of_heavy_tails
from ppvae.inference.evidence.pareto import tail_size
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.verdicts import verdict

pytestmark = pytest.mark.usefixtures("float64")
QUIET = {"seed": 1, "progress": False}
AT_REST = Effort("iwae", 500, num_samples=500, ascent=None, restarts=0, richer=False, refit_steps=0)
WITH_FAMILIES = replace(AT_REST, ascent=Ascent(max_steps=100), richer=True)
HEAVY = {
    "no mean": lambda x: dist.Cauchy(x / 2, 0.8),
    "no variance": lambda x: dist.StudentT(2.1 + 0 * x, x / 2, 0.8),
}


def pair_of(fn, x):
    """`z ~ N(0, 1), x ~ N(z, 1)`: the posterior is `N(x / 2, 1 / 2)`."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn(x))

    return Pair.of(scalar_model, guide, x)


@pytest.fixture
def x():
    return torch.randn(20) * 2**0.5


@pytest.mark.parametrize("effort", [AT_REST, pytest.param(WITH_FAMILIES, marks=pytest.mark.slow(15))])
@pytest.mark.parametrize("name", HEAVY)
def test_the_verdict_says_it_first(name, effort, x):
    report = ppvae.gap(pair_of(HEAVY[name], x), x, effort, **QUIET)
    said = report.verdict()
    assert said.startswith("The ELBO is not sure: the log weights of ")
    assert "take a guide with lighter tails" in said.splitlines()[0]
    assert "not what keeps it low" not in said
    assert "no gap is seen" not in said
    assert "would take the error of the gap" not in said
    assert "heavy tails" in repr(report)
    assert "heavy tails" in report.gap.warning


@pytest.mark.parametrize("num_samples", [100, 1000])
@pytest.mark.parametrize("name", HEAVY)
def test_the_terms_say_it(name, num_samples, x):
    terms = ppvae.elbo_terms(pair_of(HEAVY[name], x), x, num_samples, **QUIET)
    assert "heavy tails" in terms.elbo.warning
    assert "heavy tails" in str(terms)


@pytest.mark.parametrize("scale", [0.3, 0.5**0.5, 2.0])
def test_a_gaussian_guide_has_none(scale, x):
    pair = pair_of(lambda x: dist.Normal(x / 2, scale), x)
    assert ppvae.elbo_terms(pair, x, **QUIET).elbo.warning == ""
    report = ppvae.gap(pair, x, AT_REST, **QUIET)
    assert report.verdict().startswith("The ELBO is -")
    assert "heavy tails" not in repr(report)


@pytest.mark.parametrize(("error", "told"), [(0.01, True), (0.2, True), (0.5, False), (float("nan"), False)])
def test_a_gap_within_a_large_error_is_not_called_none(error, told, x):
    """Of 20 data points the mean's error is `error / 20^(1/2)`, and a cause counts from 0.05 nats on."""
    report = ppvae.gap(pair_of(lambda x: dist.Normal(x / 2, 0.7), x), x, AT_REST, **QUIET)
    exact = replace(report.log_evidence, std_error=torch.zeros(20), reliable=torch.ones(20) > 0)
    unsure = replace(report.elbo, estimate=exact.estimate.clone(), std_error=torch.full((20,), error))
    said = verdict(replace(report, log_evidence=exact, elbo=unsure))
    assert ("The guide is not what keeps it low" in said) == told
    assert ("Whether the guide keeps it low cannot be told" in said) != told


def alarms(guide, num_points, num_samples, runs=100):
    """The share of runs in which the log weights of a guide, a function of the posterior's mean, are warned of."""
    told, size = 0, tail_size(num_samples) + 1
    for run in range(runs):
        torch.manual_seed(run)
        mean = torch.randn(num_points) / 2**0.5
        fn = guide(mean)
        z = fn.sample((num_samples,))
        log_w = dist.Normal(mean, 0.5**0.5).log_prob(z) - fn.log_prob(z)
        khat = lower_khat(log_w.topk(size, dim=0, largest=False).values, log_w.max(0).values)
        told += bool(warning_of_heavy_tails(khat, log_w.std(0) / num_samples**0.5, num_samples))
    return told / runs


@pytest.mark.parametrize("scale", [0.3, 0.8, 2.0])
@pytest.mark.parametrize(("num_points", "num_samples"), [(1, 50), (1, 100), (8, 100), (8, 1000)])
def test_light_tails_seldom_seem_heavy(scale, num_points, num_samples):
    """A chance of 0.01; three standard errors of 100 runs are another 0.03. It was 0.12 of one point and 50 draws."""
    assert alarms(lambda mean: dist.Normal(mean, scale), num_points, num_samples) <= 0.04


@pytest.mark.parametrize(("num_points", "num_samples"), [(1, 1000), (8, 100), (200, 100)])
def test_heavy_tails_are_told(num_points, num_samples):
    assert alarms(lambda mean: dist.StudentT(2.1, mean, 0.8), num_points, num_samples, runs=20) >= 0.95


def test_heavy_tails_of_some_data_points_are_told():
    """Of a quarter, none of which would stand out among so many by itself."""
    degrees = torch.tensor([2.1] * 50 + [1e6] * 150)
    assert alarms(lambda mean: dist.StudentT(degrees, mean, 0.8), 200, 100, runs=20) >= 0.95
