"""Intervals of estimates that are called reliable cover what is known, over pairs of many kinds.

The whole study is `benchmarks/coverage.py`; here each case has few data points.
"""

import pytest
import torch
from support.known_cases import CASES

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.ledger.ascent import Ascent

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore::UserWarning")]
CHAINS = AIS(num_temperatures=100)
RARE = {
    # a small mode, or a bound, that draws seldom reach: estimates are right to 0.02 nats, and errors smaller
    "mixture prior",
    "mixture prior, weak data",
    "HalfNormal prior, Normal",
    "HalfNormal prior, count",
    # a large mode that the guide leaves out, where the audit may be too short to see it
    "mixture prior, one hump",
}


def errors(name, num, seed=0):
    """Of the reliable estimates of "auto": in nats, and in standard errors; and the share that is reliable."""
    case = CASES[name]
    batch = case.data(num, seed)
    found = ppvae.log_evidence(case.pair(), batch, annealing=CHAINS, seed=seed, progress=False)
    off = (found.estimate - case.exact(batch)["log_evidence"])[found.reliable]
    return off, off / found.std_error[found.reliable].clamp(min=1e-9), found.reliable.double().mean()


@pytest.mark.slow(4)
@pytest.mark.parametrize("name", [name for name in CASES if name not in RARE])
def test_no_reliable_estimate_is_far_off(name):
    off, scaled, reliable = errors(name, 40)
    assert (scaled.abs() < 1.96).double().mean() > 0.8
    assert ((off.abs() < 0.1) | (scaled.abs() < 4)).all()
    assert off.mean().abs() < 0.1
    assert reliable > 0.8 or not CASES[name].healthy


@pytest.mark.slow(60)
def test_intervals_cover_what_they_say():
    """Over healthy cases together: 95% intervals 93 to 97% of the time, and 68% intervals 65 to 78%."""
    names = [name for name, case in CASES.items() if case.healthy and name not in RARE][::3]
    off, scaled, reliable = zip(*[errors(name, 30, seed=1) for name in names], strict=True)
    scaled = torch.cat(scaled)[torch.cat(off).abs() > 1e-9]  # the others are exact
    noise = 2 * (0.05 * 0.95 / len(scaled)) ** 0.5
    assert 0.93 - noise < (scaled.abs() < 1.96).double().mean() < 0.97 + noise
    assert 0.65 - noise < (scaled.abs() < 0.994).double().mean() < 0.78 + noise
    assert torch.stack(reliable).mean() > 0.95


@pytest.mark.parametrize("name", ["Gaussian, width 0.45", "two modes, both in the guide", "masked"])
def test_what_is_known_is_known(name):
    """The grids and closed forms themselves, by many importance weights of a guide that is wide enough."""
    case = CASES[name]
    x, loc, scale = case.data(5, 0)
    exact = case.exact((x, loc, scale))
    found = case.pair().log_weights((x, loc, scale), num_particles=100_000).log_w.detach()
    std_error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact["elbo"]).abs() < 4 * std_error).all()
    assert (found.exp().mean(0).log() < exact["log_evidence"] + 0.05).all()
    assert (exact["elbo"] < exact["log_evidence"]).all()


@pytest.mark.slow(5)
@pytest.mark.parametrize("name", ["Gaussian, shift 1", "Gamma prior, wide", "Bernoulli, wide", "Poisson, narrow"])
def test_refined_guides_are_the_best_of_their_family(name):
    """Their ELBO is the largest that quadrature and L-BFGS find, and the amortization gap is what that gains."""
    case = CASES[name]
    batch = case.data(30, 0)
    exact, best = case.exact(batch), case.best_elbo(batch)
    effort = Effort("iwae", 100, num_samples=1000, ascent=Ascent(), restarts=0, richer=False, refit_steps=0)
    report = ppvae.gap(case.pair(), batch, effort, seed=0, progress=False)
    refined = report.elbo_refined
    assert (refined.estimate - best < 4.5 * refined.std_error + 1e-6).all()
    assert abs((refined.estimate - best).mean()) < 4 * refined.mean().monte_carlo_error + 0.005
    gain = report.amortization_gap
    assert abs((gain.estimate - (best - exact["elbo"])).mean()) < 4 * gain.mean().monte_carlo_error + 0.005
