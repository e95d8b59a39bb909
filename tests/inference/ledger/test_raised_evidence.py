"""Where log p(x) is not to be trusted, it is at least the larger of the ELBOs that were measured beside it."""

from dataclasses import replace

import pytest
import torch

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.evidence.larger_bound import raised
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.runtime.records import Evidence, Measurement
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
SHORT = Effort(
    "ais",
    annealing=(AIS(num_chains=4, num_temperatures=3),),
    num_samples=200,
    ascent=Ascent(max_steps=200),
    restarts=0,
    richer=False,
)


class Unknown(LinearVAE):
    """One whose log p(x) has to be measured."""

    def log_prob(self, batch):
        raise NotImplementedError


def evidence(reliable):
    found = {"estimate": torch.tensor([-5.0, -5.0, -5.0]), "std_error": torch.full((3,), 0.1)}
    return Evidence.of("ais", 16, found, torch.tensor(reliable), ("few chains",))


def elbo(*estimate, warning=""):
    return Measurement(torch.tensor(estimate), torch.full((3,), 0.1), 100, "elbo", warning)


def test_a_larger_bound_is_taken_where_the_estimate_is_not_to_be_trusted():
    """The largest, beyond errors; the data points stay unreliable, and say by what they were measured."""
    bounds = {"elbo": elbo(-4.0, -5.1, -4.0), "elbo_flow": elbo(-3.0, -4.9, -4.5)}
    found = raised(evidence([False, False, True]), bounds)
    assert found.estimate.tolist() == [-3.0, -5.0, -5.0]
    assert found.methods == ("elbo_flow", "ais", "ais")
    assert found.reliable.tolist() == [False, False, True]
    assert found.limits == ("few chains",)
    assert found.khat[0].isnan()


@pytest.mark.parametrize(("more", "taken"), [((0.2, -0.1, 0.2), True), ((-0.2, 0.1, -0.2), False)])
def test_within_errors_the_more_precise_bound_is_taken_if_it_is_larger_in_the_mean(more, taken):
    """So one that is precise and near log p(x) does not lie above it, in the mean; and one far below is not taken."""
    noisy = replace(evidence([False] * 3), std_error=torch.full((3,), 0.5))
    bound = replace(elbo(*(-5.0 + each for each in more)), std_error=torch.full((3,), 0.01))
    assert raised(noisy, {"elbo": bound}).methods == (("elbo",) * 3 if taken else ("ais",) * 3)
    assert raised(noisy, {"elbo": replace(bound, std_error=torch.full((3,), 0.6))}).methods == ("ais",) * 3


def test_the_mean_stays_a_lower_bound():
    """Over 2000 repetitions, with a bound that is exact, and estimates of its mean on the scale of p(x)."""
    torch.manual_seed(0)
    error, off = 0.6, []
    bound = Measurement(torch.zeros(5), torch.full((5,), 1e-3), 100, "elbo")
    for _ in range(2000):
        noisy = error * torch.randn(5) - error**2 / 2
        record = Evidence.of("ais", 16, {"estimate": noisy, "std_error": torch.full((5,), error)}, torch.zeros(5) > 0)
        found = raised(record, {"elbo": bound}).mean()
        off.append(found.estimate / max(found.monte_carlo_error, 1e-3))
    assert (torch.tensor(off) < 1.96).double().mean() > 0.95


def test_however_large_the_error_is_it_does_not_keep_a_bound_from_being_taken():
    noisy = replace(evidence([False] * 3), std_error=torch.full((3,), 40.0))
    assert raised(noisy, {"elbo": elbo(-1.9, -7.9, -5.2)}).methods == ("elbo", "ais", "ais")


def test_a_single_weight_may_be_exceeded_and_a_single_draw_does_not_exceed():
    """Neither has an error that could be told."""
    single = replace(evidence([False] * 3), std_error=torch.full((3,), torch.nan))
    assert raised(single, {"elbo": elbo(-1.9, -7.9, -5.2)}).methods == ("elbo", "ais", "ais")
    drawn_once = replace(elbo(0.0, 0.0, 0.0), std_error=torch.full((3,), torch.nan))
    assert raised(evidence([False] * 3), {"elbo": drawn_once}).methods == ("ais",) * 3


def test_a_bound_with_heavy_tails_is_not_taken():
    found = raised(evidence([False] * 3), {"elbo": elbo(-4.0, -4.0, -4.0, warning="heavy tails")})
    assert found.estimate.tolist() == [-5.0] * 3


def test_the_elbo_itself_may_be_the_larger_bound():
    """AIS of three temperatures from the prior is nats too low, where the guide is exact: the gap is zero."""
    pair = Unknown(num_features=8, num_latents=6, guide="exact")
    x = pair.sample(12)
    from_prior = (AIS(num_chains=4, num_temperatures=3, start="prior"),)
    report = ppvae.gap(pair, x, replace(SHORT, annealing=from_prior, ascent=None), seed=0, progress=False)
    torch.testing.assert_close(report.log_evidence.estimate, LinearVAE.log_prob(pair, x).detach())
    assert report.gap.estimate.abs().max() < 1e-9
    assert not report.log_evidence.reliable.all()
    assert "a lower bound, by elbo" in report.verdict()


@pytest.mark.slow(10)
def test_the_ledger_takes_the_larger_bound():
    """A guide far off, and three temperatures: AIS is nats below the guides that were refined for each data point."""
    pair = Unknown(num_features=8, num_latents=6)
    pair.weight.data = torch.linalg.qr(torch.randn(8, 6))[0] * 4
    pair.fit_guide()
    for each in pair.encoder.parameters():
        each.data += 0.2
    x = pair.sample(12)
    truth = LinearVAE.log_prob(pair, x).detach()
    short = ppvae.log_evidence(pair, x, "ais", annealing=SHORT.annealing[0], seed=0, progress=False)
    assert (truth - short.estimate)[~short.reliable].mean() > 10
    report = ppvae.gap(pair, x, SHORT, seed=0, progress=False)
    largest = torch.maximum(report.elbo.estimate, report.elbo_refined.estimate)
    assert (report.log_evidence.estimate > largest - 3).all()
    assert report.log_evidence.mean().estimate > truth.mean() - 0.5
    assert (report.log_evidence.estimate < truth + 4 * report.log_evidence.std_error).all()
    assert "elbo_refined" in report.log_evidence.methods
    assert "a lower bound, by elbo_refined" in report.verdict()
    assert "AIS with more temperatures would tell" in report.verdict()
    parts = [report.lines()[name].estimate for name in ("approximation_gap", "amortization_gap")]
    assert torch.allclose(sum(parts), report.gap.estimate)
