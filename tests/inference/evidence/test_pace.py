"""Forecasts of annealing, and its end when the time is spent, by a clock that stands still but for evaluations."""

import io
import math
from dataclasses import replace

import pyro
import pytest
import torch
from support.oracle_pairs import Bimodal
from tqdm import tqdm

import ppvae
from ppvae import AIS, Effort, Pair
from ppvae.inference.evidence import annealed_importance, pace
from ppvae.inference.runtime.records import NOT_REACHED
from ppvae.models import LinearVAE

SECONDS = 0.01
"""Of the clock, for an evaluation of one data point."""

SHORT = AIS(num_chains=8, num_temperatures=60, num_leapfrog=3)


def seconds_of(settings):
    """That AIS takes for a data point, but for a few evaluations."""
    transitions = annealed_importance.START_STEPS + settings.num_warm_up + settings.num_temperatures
    return SECONDS * settings.num_leapfrog * transitions


OF_A_POINT = seconds_of(SHORT)
A_TRANSITION = SECONDS * SHORT.num_leapfrog

quiet = {"progress": False, "seed": 0}


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock, plain = Clock(), annealed_importance._state

    def timed(evaluate, batch, u):
        clock.seconds += SECONDS * u.shape[1]
        return plain(evaluate, batch, u)

    monkeypatch.setattr(pace, "clock", clock)
    monkeypatch.setattr(annealed_importance, "_state", timed)
    return clock


class Hidden(LinearVAE):
    """It does not say that it knows its evidence."""

    def log_prob(self, x):
        return Pair.log_prob(self, x)


def narrow(num_points, offset=-0.9):
    """A pair whose guide is too narrow for importance weights, data, and their log p(x)."""
    pair = Hidden(6, 3).fit_guide()
    pair.posterior_scale.data += offset
    x = pair.sample(num_points)
    return pair, x, LinearVAE.log_prob(pair, x).detach()


def with_own_rows(num_points):
    """A pair whose guide has parameters of its own for each data point, and these."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    x = torch.randn(num_points)
    return Pair.of(model, pyro.infer.autoguide.AutoNormal(model), x), x


def two_starts():
    return SHORT, replace(SHORT, start="prior")


# The bound


@pytest.mark.parametrize("fixed", [0.0, 2.0])
@pytest.mark.parametrize("seconds", [11.0, 27.0, 80.0])
def test_blocks_fill_the_time_and_keep_to_it(clock, fixed, seconds):
    """A data point takes a second, and a block some more: in random order, and all where there is time."""
    done = []

    def run(index):
        if (factor := (fixed + len(index)) / (pace.SHARE * (seconds - clock.seconds))) > 1:
            raise pace.TooLong(factor)
        done.append(index)
        clock.seconds += fixed + len(index)
        return {"twice": 2 * index}

    found = pace.in_time(run, 30, deadline=seconds)
    order = torch.cat(done).tolist()
    assert len(order) == 30 if seconds == 80 else pace.SHARE * (seconds - clock.seconds) < 1 + fixed
    assert clock.seconds <= seconds
    assert found["index"].tolist() == sorted(order) != order
    assert found["twice"].tolist() == [2 * i for i in sorted(order)]


def test_a_block_that_is_late_is_given_up(clock):
    """The second block takes longer than was foreseen."""

    def run(index):
        if len(index) > 8:
            raise pace.TooLong(2.0)
        clock.seconds += 8.0
        if clock.seconds > 15.0:
            raise pace.Late
        return {"twice": 2 * index}

    found = pace.in_time(run, 30, deadline=15.0)
    assert clock.seconds == 16.0
    assert len(found["index"]) == 7  # of 30, 15, 7


def test_a_first_block_that_is_late_leaves_nothing(clock):
    def run(index):
        raise pace.Late

    assert pace.in_time(run, 30, deadline=20.0) == {}


def told(clock, seconds, deadline, shown=True):
    """A pace that is told of 60 transitions of 10 data points, each of which takes `seconds(number)`."""
    pace_ = pace.Pace("ais", 600, tqdm(total=600, file=io.StringIO(), disable=not shown), [], deadline)
    for number in range(60):
        pace_(10)
        clock.seconds += seconds(number)


def test_a_block_that_is_too_long_is_given_up_at_once(clock):
    with pytest.raises(pace.TooLong) as expected:
        told(clock, lambda number: 10.0, deadline=200.0)
    assert clock.seconds == 10.0 * (pace.UNTIMED + pace.TIMED)
    assert expected.value.factor == pytest.approx(600 / (pace.SHARE * (200 - 10)))
    told(clock, lambda number: 10.0, deadline=1000.0)


def test_a_forecast_that_was_far_off_is_corrected(clock, caplog):
    """Of sixty transitions the first five take a hundred seconds each, as on a busy machine, or one, as the others."""
    for slow in (100.0, 1.0):
        told(clock, lambda number, slow=slow: slow if number < 5 else 1.0, math.inf, shown=False)
    seconds = [60 * 100.0, 60 * (4 * 100 + 45) / 49, 60.0]
    assert caplog.messages == [f"ais takes about {pace.spoken(each)}" for each in seconds]


def test_a_block_ends_at_the_deadline(clock):
    """It slows down after its forecast."""
    with pytest.raises(pace.Late):
        told(clock, lambda number: 1.0 if number < 20 else 50.0, deadline=100.0)
    assert clock.seconds == 120.0


@pytest.mark.parametrize("method", ["auto", "best"])
def test_with_no_time_importance_weights_stand_for_all(float64, clock, method):
    pair, x, _ = narrow(8)
    annealing = SHORT if method == "auto" else two_starts()
    found = ppvae.log_evidence(pair, x, method, 100, annealing=annealing, max_seconds=OF_A_POINT / 2, **quiet)
    assert torch.equal(found.estimate, found.candidates["iwae"].estimate)
    assert not found.reliable.any()
    assert NOT_REACHED in found.limits
    assert "reached 0" in found.reason
    assert clock.seconds < OF_A_POINT


@pytest.mark.slow(8)
def test_auto_anneals_some_and_says_which(float64, clock):
    pair, x, exact = narrow(40)
    seconds = 16.5 * OF_A_POINT
    found = ppvae.log_evidence(pair, x, "auto", 100, annealing=SHORT, max_seconds=seconds, **quiet)
    weighted = found.candidates["iwae"]
    assert not weighted.reliable.any()
    annealed = torch.tensor([name == "ais" for name in found.methods])
    num = int(annealed.sum())
    assert 10 < num < 17
    assert clock.seconds < seconds + num * A_TRANSITION
    assert annealed.nonzero().flatten().tolist() != list(range(num))
    assert torch.equal(found.estimate[~annealed], weighted.estimate[~annealed])
    assert not found.reliable[~annealed].any()
    assert torch.equal(found.reliable[annealed], found.std_error[annealed] <= 0.5)
    z = ((found.estimate - exact) / found.std_error)[annealed & found.reliable]
    assert len(z) > num / 2
    assert z.abs().max() < 5
    assert found.reason == (
        f"ais for the 40 of 40 data points whose k-hat is bad; in the time there was, it reached {num}, and iwae "
        "stands for the rest; AIS from the prior was not tried, as the time was spent"
    )
    assert f"unreliable for {int((~found.reliable).sum())} of 40" in found.warning
    assert f"or {NOT_REACHED})" in found.warning
    assert "take more seconds, or more particles" in found.warning


@pytest.mark.slow(4)
def test_with_time_for_all_auto_does_all(float64, clock):
    pair, x, exact = narrow(12)
    found = ppvae.log_evidence(pair, x, "auto", 100, annealing=SHORT, max_seconds=1e6, **quiet)
    assert found.reason == "ais for the 12 of 12 data points whose k-hat is bad"
    assert NOT_REACHED not in found.limits
    assert ((found.estimate - exact) / found.std_error).abs().max() < 5


@pytest.mark.slow(8)
def test_audits_have_a_share_of_the_time(float64, clock):
    """k-hat is good, and the audit reaches but some of those that it would have."""
    pair, x, _ = narrow(40, offset=0.0)
    light = seconds_of(replace(SHORT, num_temperatures=50))
    found = ppvae.log_evidence(pair, x, "auto", 1000, annealing=SHORT, max_seconds=60 * light, **quiet)
    num = int(found.reason.removesuffix(" of them").rpartition(" ")[2])
    assert found.reason.startswith("iwae, as k-hat is good for all data points, and AIS finds no more on")
    assert 8 < num < 15
    assert found.reliable.all()
    assert clock.seconds < 60 * light + 40 * A_TRANSITION


@pytest.mark.slow(8)
def test_best_compares_what_all_have_reached(float64, clock):
    pair, x, exact = narrow(40)
    seconds = 40 * OF_A_POINT
    found = ppvae.log_evidence(pair, x, "best", 100, annealing=two_starts(), max_seconds=seconds, **quiet)
    assert clock.seconds < seconds + 40 * A_TRANSITION
    reached = found.candidates["ais"].estimate.isfinite() & found.candidates["ais from prior"].estimate.isfinite()
    num = int(reached.sum())
    assert 10 < num < 21
    assert found.reason.startswith(
        f"in the time there was, AIS reached {num} of 40 data points, and iwae stands for the rest. Of those: the most "
    )
    assert found.method == "best"
    assert found.estimate.isfinite().all()
    assert torch.equal(found.estimate[~reached], found.candidates["iwae"].estimate[~reached])
    assert not found.reliable[~reached].any()
    trusted = reached & found.reliable
    assert trusted.sum() > num / 2
    assert ((found.estimate - exact) / found.std_error)[trusted].abs().max() < 5


@pytest.mark.slow(20)
def test_auto_goes_on_to_best_in_the_time_that_is_left(float64, clock):
    """Importance weights look fine, and AIS from the prior finds another mode."""
    pair, x = Bimodal(), torch.tensor([2.0, 3.0, 4.0] * 6)
    settings = AIS(num_chains=16, num_temperatures=50, num_leapfrog=2)
    seconds = 50 * seconds_of(settings)
    found = ppvae.log_evidence(pair, x, "auto", 1000, annealing=settings, max_seconds=seconds, **quiet)
    assert found.reason.startswith("best, as AIS from the prior finds 0.")
    assert "in the time there was, AIS reached" in found.reason
    assert 0 < found.reliable.sum() < 18
    assert ((found.estimate - pair.on_grid(x)) / found.std_error)[found.reliable].abs().max() < 5
    assert clock.seconds < seconds + 18 * SECONDS * settings.num_leapfrog


@pytest.mark.slow(10)
def test_a_ledger_in_bounded_time(float64, clock):
    """What was not reached is a number in table and export, and the verdict does not trust it."""
    pair, x, _ = narrow(30)
    seconds = 10 * OF_A_POINT
    effort = Effort("best", 100, two_starts(), 50, None, max_seconds=seconds)
    report = ppvae.gap(pair, x, effort, **quiet)
    assert clock.seconds < seconds + 30 * A_TRANSITION
    assert not report.summary()["nats"].isna().any()
    assert f"For {int((~report.log_evidence.reliable).sum())} of 30 data points that is not to be trusted" in str(
        report
    )
    assert "More seconds would tell." in report.verdict()
    candidates = report.to_arviz()["evidence"]["estimate"]
    assert int(candidates.isel(candidate=-1).isnull().sum()) == 0
    assert 0 < int(candidates.sel(candidate="ais").isnull().sum()) < 30


@pytest.mark.slow(10)
def test_a_quick_ledger_takes_a_minute_for_each_data_set(float64, clock):
    """However long an evaluation takes. AIS of all data points would take three minutes here."""
    pair, x, _ = narrow(20)
    report = ppvae.gap(pair, x, "quick", **quiet)
    assert clock.seconds < 60 + 20 * SECONDS * AIS().num_leapfrog
    assert 0 < report.log_evidence.reliable.sum() < 20
    assert NOT_REACHED in report.log_evidence.limits
    once = clock.seconds
    with_training_data = ppvae.gap(pair, x, "quick", train=x, **quiet)
    assert torch.equal(with_training_data.log_evidence.estimate, report.log_evidence.estimate)
    assert clock.seconds - once < 2 * (60 + 20 * SECONDS * AIS().num_leapfrog)


@pytest.mark.slow(10)
def test_a_quick_ledger_of_a_guide_with_own_rows_has_no_bound(float64, clock):
    """As all of its rows are annealed at once."""
    pair, x = with_own_rows(20)
    report = ppvae.gap(pair, x, "quick", **quiet)
    assert NOT_REACHED not in report.log_evidence.limits
    assert clock.seconds > 60


@pytest.mark.slow(5)
def test_a_run_without_a_bound_does_not_depend_on_the_clock(float64, clock):
    pair, x, _ = narrow(12)
    slow = ppvae.log_evidence(pair, x, "auto", 100, annealing=SHORT, **quiet)
    clock.seconds = -1e9
    again = ppvae.log_evidence(pair, x, "auto", 100, annealing=SHORT, **quiet)
    assert torch.equal(slow.estimate, again.estimate)
    assert slow.reason == again.reason


# The forecast


def forecasts(caplog):
    units = {"seconds": 1, "minutes": 60, "hours": 3600}
    said = [record.message for record in caplog.records if "takes about" in record.message]
    return [float(each.split()[-2]) * units[each.split()[-1]] for each in said]


@pytest.mark.parametrize("chunk", [None, pytest.param(10, marks=pytest.mark.slow(6))])
def test_a_long_run_says_how_long_it_takes(float64, clock, caplog, monkeypatch, chunk):
    if chunk:
        monkeypatch.setattr(ppvae.inference.runtime.chunks, "CPU_ELEMENTS", 1)  # ten data points at a time
    pair, x, _ = narrow(45)
    ppvae.log_evidence(pair, x, "ais", annealing=SHORT, **quiet)
    assert caplog.records[0].message.startswith("ais of 45 data points takes about")
    (forecast,) = forecasts(caplog)
    assert clock.seconds / 2 < forecast < 2 * clock.seconds


@pytest.mark.slow(4)
def test_best_forecasts_both_starts(float64, clock, caplog):
    pair, x, _ = narrow(45)
    ppvae.log_evidence(pair, x, "best", 100, annealing=two_starts(), **quiet)
    assert [record.message.split(" of ")[0] for record in caplog.records] == ["ais", "ais from prior"]
    assert clock.seconds / 2 < sum(forecasts(caplog)) < 2 * clock.seconds


@pytest.mark.slow(6)
def test_a_bounded_run_forecasts_its_bound(float64, clock, caplog):
    pair, x, _ = narrow(45)
    ppvae.log_evidence(pair, x, "auto", 100, annealing=SHORT, max_seconds=100.0, **quiet)
    assert len(found := forecasts(caplog)) == 1
    assert 30 < found[0] <= 100


def test_short_runs_are_silent(float64, clock, caplog):
    pair, x, _ = narrow(6)
    ppvae.log_evidence(pair, x, "ais", annealing=SHORT, **quiet)
    assert clock.seconds < pace.LONG
    assert not [record for record in caplog.records if record.name == "ppvae"]  # torch's tracer keeps a log of its own


def test_a_bar_says_it_instead(clock, caplog):
    with tqdm(total=1000, file=io.StringIO()) as bar:
        told = pace.Pace("ais of 10 data points", 1000, bar, [])
        for _ in range(20):
            told(10)
            clock.seconds += 12.0
        assert (bar.desc, bar.n) == ("ais of 10 data points, about 20 minutes: ", 200)
    assert not caplog.records


# Refusals


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, math.nan, "60"])
def test_no_time_is_refused(seconds):
    refusal = f"max_seconds: found {seconds!r}, expected above 0, a finite number or None"
    with pytest.raises((ValueError, TypeError), match=refusal):
        ppvae.log_evidence(LinearVAE(5, 2), torch.randn(4, 5), max_seconds=seconds)
    with pytest.raises((ValueError, TypeError), match=refusal):
        Effort(max_seconds=seconds)


@pytest.mark.parametrize("method", ["iwae", "exact", "ais", "ais from prior", "bdmc"])
def test_methods_without_an_estimate_of_the_rest_are_refused(method):
    with pytest.raises(
        ValueError, match=r"max_seconds: found 9 for method='.*', expected None, or one of \('auto', 'best'\)"
    ):
        ppvae.log_evidence(LinearVAE(5, 2), torch.randn(4, 5), method, max_seconds=9)


def test_a_bound_and_a_checkpoint_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_seconds: found 9 and a checkpoint, expected one of them"):
        ppvae.log_evidence(
            LinearVAE(5, 2), torch.randn(4, 5), annealing=AIS(checkpoint=tmp_path / "chains"), max_seconds=9
        )


def test_a_bound_for_rows_that_go_together_is_refused():
    pair, x = with_own_rows(6)
    with pytest.raises(ValueError, match="max_seconds: found 9 for a guide with parameters of its own rows"):
        ppvae.log_evidence(pair, x, max_seconds=9)
