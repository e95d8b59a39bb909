"""A ledger as ArviZ's container: every line and every candidate in its place, and back from a file."""

import numpy as np
import pytest
import torch
import xarray as xr

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import VAE, LinearVAE
from ppvae.views.arviz_export import import_arviz

BRIEF = Effort(
    evidence="best",
    num_particles=100,
    annealing=(AIS(num_chains=4, num_temperatures=5, num_leapfrog=1),),
    num_samples=50,
    ascent=Ascent(max_steps=20),
    restarts=0,
    richer=False,
    refit_steps=0,
)


def dataset(container, name):
    found = container[name]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    return ppvae.gap(VAE.mlp(6, 2, [8]), torch.rand(7, 6).round(), BRIEF, seed=0, progress=False)


def test_each_line_has_its_estimates_and_errors(report):
    ledger = dataset(report.to_arviz(), "ledger")
    lines = report.lines()
    assert set(ledger) == set(lines) | {f"{name}_std_error" for name in lines}
    assert {"log_evidence", "elbo", "elbo_refined", "amortization_gap", "approximation_gap", "gap"} <= set(lines)
    for name, line in lines.items():
        assert ledger[name].dims == ("data",)
        assert ledger[name].attrs["units"] == "nats"
        np.testing.assert_array_equal(ledger[name], line.estimate)
        np.testing.assert_array_equal(ledger[f"{name}_std_error"], line.std_error)
    np.testing.assert_allclose(ledger.gap, ledger.amortization_gap + ledger.approximation_gap, atol=1e-12)
    assert ledger.elbo_refined.attrs["note"] == report.notes.get("elbo_refined", "")
    assert ledger.attrs["pair"] == "VAE"


def test_each_candidate_stands_beside_what_was_taken(report):
    evidence = dataset(report.to_arviz(), "evidence")
    record = report.log_evidence
    assert list(evidence.candidate.values) == ["iwae", "ais", "best"]
    for name in ("estimate", "std_error", "ess", "khat", "reliable"):
        assert evidence[name].dims == ("candidate", "data")
        for method, one in [*record.candidates.items(), ("best", record)]:
            np.testing.assert_array_equal(evidence[name].sel(candidate=method), getattr(one, name))
    assert evidence.reliable.dtype == bool
    assert tuple(evidence.taken.values) == record.methods
    assert evidence.attrs["reason"] == record.reason


def test_exact_evidence_has_one_method():
    pair = LinearVAE(5, 2).fit_guide()
    evidence = dataset(ppvae.gap(pair, pair.sample(4), "quick", progress=False).to_arviz(), "evidence")
    assert list(evidence.candidate.values) == ["exact"]
    assert evidence.reliable.all()
    assert set(evidence.taken.values) == {"exact"}


def test_netcdf_round_trip(report, tmp_path):
    found = report.to_arviz()
    found.to_netcdf(tmp_path / "gap.nc")
    again = import_arviz().from_netcdf(tmp_path / "gap.nc")
    for name in ("ledger", "evidence"):
        xr.testing.assert_equal(dataset(again, name), dataset(found, name))
        assert dataset(again, name).attrs["pair"] == "VAE"
