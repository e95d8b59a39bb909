"""Records say in a line what they hold, however many data points they have."""

import pytest
import torch

import ppvae
from ppvae.inference.runtime.records import Measurement
from ppvae.models import GaussianMixture, LinearVAE


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return LinearVAE(4, 2)


def test_a_measurement_is_its_mean_and_its_warning():
    found = Measurement(torch.tensor([-1.0, -3.0]), torch.tensor([0.3, 0.4]), 10, "elbo", warning="heavy tails")
    mean = "-2.000 +- 1.000 nats (N = 2, Monte Carlo error 0.250)"
    assert repr(found) == f"Measurement(elbo, 10 particles: {mean}; heavy tails)"


def test_evidence_says_how_much_of_it_is_reliable(pair):
    found = ppvae.log_evidence(pair, torch.randn(200, 4), "iwae", 100, seed=0, progress=False)
    reliable = int(found.reliable.sum())
    assert f"{found.mean()}, {reliable} of 200 reliable" in repr(found)
    assert repr(found).startswith("Evidence(iwae, 100 particles: ")
    assert len(repr(found)) < 400
    exact = ppvae.log_evidence(pair, torch.randn(3, 4), "exact", progress=False)
    assert repr(exact) == f"Evidence(exact: {exact.mean()}, 3 of 3 reliable)"


def test_weights_say_their_sites(pair):
    weights = pair.log_weights(torch.randn(200, 4), 5)
    assert repr(weights) == "Weights(5 particles of 200 data points; model: z, x; guide: z)"


def test_no_record_prints_its_numbers(pair):
    assert repr(pair.encode(torch.randn(200, 4))) == "Encoding(mean and std, each [200, 2])"
    run = ppvae.fit_em(GaussianMixture(2, 4), torch.randn(200, 4), max_iterations=3, tolerance=0.0, progress=False)
    assert repr(run) == f"EMResult(stopped after 3 iterations, log likelihood {run.history[-1]:.3f})"


def test_a_report_is_a_line_in_text_and_a_table_with_its_verdict_in_a_notebook(pair):
    report = ppvae.gap(pair, torch.randn(20, 4), "quick", seed=0, progress=False)
    gap = f"{report.gap.mean().estimate:z.3f}"
    assert repr(report).startswith("GapReport(LinearVAE, 20 data points: log p(x) ")
    assert repr(report).endswith(f"gap {gap} nats)")
    shown = report._repr_html_()
    assert shown.count("<table") == 1
    assert all(label in shown for label in report.summary().index)
    assert report.verdict().splitlines()[0] in shown
