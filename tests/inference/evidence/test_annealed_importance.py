"""Evidence by annealed chains: unbiased weights, two sides of a known truth, modes that a guide leaves out."""

import logging
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.oracle_pairs import Bimodal

import ppvae
from ppvae import AIS, ContractError
from ppvae.inference.compiling import repeated
from ppvae.inference.evidence import ais, annealed_importance, hmc, larger_bound
from ppvae.inference.evidence.method import EvidenceMethod
from ppvae.inference.evidence.registry import METHODS
from ppvae.models import GaussianMixture, LinearVAE, MarkovHVAE

quiet = {"progress": False, "seed": 0}


def poor(num_features=6, num_latents=3):
    """A linear VAE with a guide of half the width, off the mean; its evidence is known but not to be asked for."""
    pair = LinearVAE(num_features, num_latents).fit_guide()
    pair.posterior_scale.data -= 0.7
    pair.encoder.bias.data += 0.2
    return pair


def weights(pair, x, settings):
    """Log weights of all chains, `[N, K]`, less the exact evidence."""
    with ppvae.inference.runtime.measuring.measuring(pair, x, seed=0) as batch:
        found = annealed_importance.run_chains(pair, batch, settings, annealed_importance.weigh, progress=False)
    return found["forward"] - pair.log_prob(x).detach()[:, None]


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("schedule", ["adaptive", "linear", "sigmoid"])
def test_weights_are_unbiased(start, schedule, float64, assert_mean):
    """Whatever the schedule, and however few the temperatures; after a warm-up that is thrown away."""
    pair = poor(4, 2)
    x = pair.sample(2000)
    settings = AIS(num_chains=4, num_temperatures=15, start=start, schedule=schedule, num_leapfrog=2)
    found = weights(pair, x, settings).exp().mean(1)
    assert found.std() > 0.1
    assert_mean(found, 1.0)


@pytest.mark.slow(12)
def test_more_temperatures_weigh_more_evenly(float64):
    """The variance of log weights falls as 1 / T."""
    pair = poor()
    x = pair.sample(200)
    T = [20, 80, 320]
    spread = [weights(pair, x, AIS(num_chains=8, num_temperatures=t, start="prior")).var(1).mean() for t in T]
    slopes = torch.stack(spread).log().diff() / math.log(4)
    assert ((slopes + 1).abs() < 0.25).all(), slopes


@pytest.mark.slow(10)
def test_evidence_by_chains(float64):
    pair = poor()
    x = pair.sample(300)
    found = ppvae.log_evidence(pair, x, "ais", **quiet)
    exact = pair.log_prob(x).detach()
    assert (found.method, set(found.methods), found.num_particles) == ("ais", {"ais"}, 16)
    assert found.reliable.all()
    assert found.divergences.sum() < 10  # of 2.4 million transitions; other seeds and longer warm-ups give 0 to 3
    assert ((found.acceptance - 0.65).abs() < 0.1).all()
    z = (found.estimate - exact) / found.std_error
    assert z.abs().max() < 5.5  # t-distributed, of 300
    error = found.estimate - exact
    assert abs(error.mean() + found.std_error.square().mean() / 2) < 4 * error.std() / len(error) ** 0.5


def test_uneven_chains_are_announced(float64):
    pair = poor()
    x = 4 * torch.randn(20, 6)
    found = ppvae.log_evidence(
        pair, x, "ais", annealing=AIS(num_temperatures=20, start="prior", num_leapfrog=1), **quiet
    )
    assert torch.equal(found.reliable, found.std_error <= 0.5)
    assert 0 < found.reliable.sum() < 20
    assert f"unreliable for {int((~found.reliable).sum())} of 20 data points" in found.warning


@pytest.mark.slow(12)
def test_sandwich_holds_the_truth(float64):
    """On simulated data: lower below, upper above, and both near, though the guide is poor."""
    pair = poor()
    found = ppvae.log_evidence(pair, torch.zeros(400, 6), "bdmc", annealing=AIS(num_temperatures=60), **quiet)
    sandwich = found.certificate
    width = sandwich.width.mean()
    assert 0 < width.estimate < 0.1
    torch.testing.assert_close(found.estimate, pair.log_prob(torch.zeros(400, 6)).detach(), atol=0.5, rtol=0)
    torch.testing.assert_close(sandwich.width.estimate, sandwich.upper.estimate - sandwich.lower.estimate)
    assert sandwich.width.estimate.min() < 0  # for a data point the bounds are stochastic
    assert sandwich.lower.estimate.std() > 10 * found.estimate.std()  # other data


def test_reverse_weights_are_unbiased(float64, assert_mean):
    """`1 / p(x)` is the mean of the reverse weights."""
    pair = poor(4, 2)
    settings = AIS(num_chains=4, num_temperatures=20, start="prior", num_leapfrog=2)
    x, latents = ppvae.simulation.simulate(pair, torch.zeros(3000, 4))
    with ppvae.inference.runtime.measuring.measuring(pair, x, seed=0) as batch:
        weigh = partial(annealed_importance.weigh_both_ways, latents)
        found = annealed_importance.run_chains(pair, batch, settings, weigh, progress=False)
    exact = pair.log_prob(x).detach()[:, None]
    assert_mean((found["backward"] + exact).exp().mean(1), 1.0)
    assert_mean((found["forward"] - exact).exp().mean(1), 1.0)


@pytest.mark.slow(30)
def test_a_missed_mode_is_found_from_the_prior(float64):
    """Importance weights and chains from the guide fall short by log 2, in good order; chains from the prior do not."""
    pair, x = Bimodal(), torch.tensor([2.0, 3.0, 4.0] * 10)
    exact = pair.on_grid(x)
    by_guide = {m: ppvae.log_evidence(pair, x, m, **quiet) for m in ("iwae", "ais")}
    for found in by_guide.values():
        assert found.reliable.all()
        assert (found.estimate - exact + math.log(2)).mean().abs() < 0.05
    settings = AIS(num_chains=64, num_temperatures=100, start="prior")
    from_prior = ppvae.log_evidence(pair, x, "ais", annealing=settings, **quiet)
    assert ((from_prior.estimate - exact) / from_prior.std_error).abs().max() < 5
    best = ppvae.log_evidence(pair, x, "best", annealing=[AIS(), settings], **quiet)
    assert (best.estimate - exact).mean().abs() < 0.1
    assert best.methods.count("ais from prior") > 20
    assert "ais from prior for" in best.reason
    assert set(best.candidates) == {"iwae", "ais", "ais from prior"}
    for name, found in by_guide.items():
        assert (best.candidates[name].estimate - found.estimate).abs().mean() < 0.1


def test_auto_without_a_latent_view_says_so(float64):
    pair = GaussianMixture(3, 2, guide="amortized")
    assert ppvae.log_evidence(pair, torch.randn(5, 2), **quiet).method == "exact"


# The larger of several bounds


class Plain(EvidenceMethod):
    """A method that calls what has small errors reliable."""

    limit = "a large error"

    def __init__(self, name):
        self.name = name

    def run(self, task):
        raise NotImplementedError

    def reliable(self, found):
        return found["std_error"] < 1.0


MADE_UP = {name: Plain(name) for name in ("a", "b", "better", "worse")}


def record(method, log_w):
    """Of log weights `[K, N]`."""
    estimate = log_w.logsumexp(0) - math.log(len(log_w))
    relative = (log_w - estimate).exp()
    found = {
        "estimate": estimate,
        "std_error": relative.std(0) / len(log_w) ** 0.5,
        "ess": relative.sum(0) ** 2 / relative.square().sum(0),
    }
    return MADE_UP[method].record(len(log_w), found)


def lognormal(method, num, sigma, evidence=0.0):
    """Two halves of weights with mean exp(evidence), for 4000 data points."""
    return tuple(record(method, sigma * torch.randn(num, 4000) - sigma**2 / 2 + evidence) for _ in range(2))


def test_the_larger_is_unbiased_though_chosen(float64, assert_mean):
    candidates = {"a": lognormal("a", 5, 1.0), "b": lognormal("b", 5, 1.0)}
    found = larger_bound.larger_bound(candidates, MADE_UP)
    assert_mean(found.estimate.exp(), 1.0)
    naive = torch.maximum(*[larger_bound.pooled(halves, MADE_UP).estimate for halves in candidates.values()])
    assert (naive.exp().mean() - 1) > 10 * naive.exp().std() / 4000**0.5  # what is avoided
    assert 1000 < sum(", " in name for name in found.methods) < 3000
    alone = larger_bound.pooled(candidates["a"], MADE_UP)
    covered, without = (((each.estimate / each.std_error).abs() < 1.96).double().mean() for each in (found, alone))
    assert covered > without


def test_the_larger_is_the_better_where_it_is_clear(float64):
    better, worse = lognormal("better", 50, 0.2), lognormal("worse", 50, 0.2, evidence=-3.0)
    found = larger_bound.larger_bound({"worse": worse, "better": better}, MADE_UP)
    whole = larger_bound.pooled(better, MADE_UP)
    assert set(found.methods) == {"better"}
    for name in ("estimate", "std_error", "ess"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert found.reason == (
        "the most precise, or larger beyond errors: better for 4000 of 4000 data points; not worse, which fell short "
        "in the mean"
    )


def test_pooled_halves_are_the_whole(float64):
    log_w = torch.randn(40, 10)
    halves = record("a", log_w[:20]), record("a", log_w[20:])
    pooled, whole = larger_bound.pooled(halves, MADE_UP), record("a", log_w)
    torch.testing.assert_close(pooled.estimate, whole.estimate)
    torch.testing.assert_close(pooled.ess, whole.ess)
    torch.testing.assert_close(pooled.std_error, whole.std_error, rtol=0.1, atol=0)


# What is to be trusted


def test_each_method_decides_what_is_reliable(float64):
    """By its own rule, not by which diagnostics happen to be there."""
    estimate = torch.zeros(4)
    found = {
        "estimate": estimate,
        "std_error": torch.tensor([0.1, 0.1, 0.9, 0.9]),
        "khat": torch.tensor([0.1, 0.9, 0.1, torch.nan]),
    }
    assert METHODS["iwae"].record(10, found).reliable.tolist() == [True, False, True, False]
    assert METHODS["ais"].record(10, found).reliable.tolist() == [True, True, False, False]
    assert METHODS["exact"].record(10, found).reliable.all()


def test_rows_keep_the_judgment_of_their_method(float64):
    found = {"estimate": torch.zeros(3), "std_error": torch.full((3,), 0.9), "khat": torch.full((3,), 0.1)}
    weights, chains = METHODS["iwae"].record(10, found), METHODS["ais"].record(10, found)
    mixed = weights.with_rows(torch.tensor([False, True, False]), chains)
    assert mixed.methods == ("iwae", "ais", "iwae")
    assert mixed.reliable.tolist() == [True, False, True]
    limits = "k-hat > 0.7, or > 0.45 over the data, or AIS standard error > 0.5"
    assert f"unreliable for 1 of 3 data points ({limits})" in mixed.warning


def test_halves_of_two_methods_are_trusted_where_both_are(float64):
    """Rows whose halves are of one method are judged by it; a row of two by both."""
    found = {"estimate": torch.zeros(4), "std_error": torch.full((4,), 0.1), "khat": torch.full((4,), 0.9)}
    weights = METHODS["iwae"].record(10, found)
    chains = METHODS["ais"].record(10, found | {"khat": found["khat"] * math.nan})
    taken = (
        chains.with_rows(torch.tensor([False, True, True, False]), weights),
        chains.with_rows(torch.tensor([False, False, True, True]), weights),
    )
    pooled = larger_bound.pooled(taken, METHODS)
    assert pooled.methods == ("ais", "iwae, ais", "iwae", "ais, iwae")
    assert pooled.reliable.tolist() == [True, False, False, False]
    good = larger_bound.pooled(tuple(replace(half, khat=half.khat.clamp(max=0.4)) for half in taken), METHODS)
    assert good.reliable.all()


@pytest.mark.slow(4)
def test_divergences_are_counted(float64, monkeypatch):
    """Every transition of every chain, when none may lose any energy; none otherwise, and both halves' together."""
    pair = poor()
    x, settings = pair.sample(6), AIS(num_chains=4, num_temperatures=12)
    assert (ppvae.log_evidence(pair, x, "ais", annealing=settings, **quiet).divergences == 0).all()
    monkeypatch.setattr(hmc, "MAX_ENERGY_ERROR", -math.inf)
    found = ppvae.log_evidence(pair, x, "ais", annealing=settings, **quiet)
    assert (found.divergences == 4 * 12).all()
    monkeypatch.setattr(hmc, "MAX_ENERGY_ERROR", 0.0)
    some = ppvae.log_evidence(pair, x, "ais", annealing=settings, **quiet).divergences
    assert ((some > 4) & (some < 4 * 12)).all()


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_chains": 0}, "num_chains: found 0, expected at least 1"),
        ({"num_temperatures": 2.5}, "num_temperatures: found 2.5, expected at least 1, a whole number"),
        ({"start": "here"}, "start: found 'here', expected 'guide' or 'prior'"),
        ({"schedule": "cosine"}, "schedule: found 'cosine', expected one of"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AIS(**settings)


def test_chains_of_discrete_latents_are_refused():
    with pytest.raises(ContractError, match="site 'component': found Categorical, which is discrete"):
        ppvae.log_evidence(GaussianMixture(3, 2), torch.randn(5, 2), "ais", progress=False)


def test_several_settings_are_for_best():
    with pytest.raises(ValueError, match="expected one AIS"):
        ppvae.log_evidence(poor(), torch.randn(5, 6), "ais", annealing=[AIS(), AIS()], progress=False)


def test_best_takes_one_setting_of_each_start():
    pair = poor()
    pair.log_prob = lambda x: (_ for _ in ()).throw(NotImplementedError)
    with pytest.raises(ValueError, match="found 2 settings that start from the guide, expected one for each start"):
        ppvae.log_evidence(pair, torch.randn(5, 6), "best", annealing=[AIS(), AIS()], progress=False)


def test_odd_chains_have_no_halves():
    class Hidden(LinearVAE):
        def log_prob(self, x):
            raise NotImplementedError

    with pytest.raises(ValueError, match="num_chains: found 5, expected an even number"):
        ppvae.log_evidence(Hidden(5, 2), torch.randn(4, 5), "best", annealing=AIS(num_chains=5), progress=False)


# Resuming


class Interrupted(Exception):  # noqa: N818 (it is what happened)
    pass


def measured(pair, x, path, **settings):
    chains = AIS(num_chains=4, num_temperatures=10, checkpoint=path, **settings)
    return ppvae.log_evidence(pair, x, "ais", annealing=chains, **quiet)


@pytest.mark.slow(20)
def test_an_interrupted_measurement_goes_on_where_it_was(float64, tmp_path, monkeypatch):
    """In five chunks of nine data points."""
    monkeypatch.setattr(ppvae.inference.runtime.chunks, "CPU_ELEMENTS", 1)
    pair, path = poor(), tmp_path / "chains"
    x = pair.sample(45)
    whole = measured(pair, x, tmp_path / "whole")
    plain = annealed_importance.weigh
    done = []

    def failing(sampler, index):
        if len(done) == 2:
            raise Interrupted
        done.append(index)
        return plain(sampler, index)

    monkeypatch.setattr(ais, "weigh", failing)
    with pytest.raises(Interrupted):
        measured(pair, x, path)
    done.clear()
    monkeypatch.setattr(ais, "weigh", lambda *args: done.append(args[1]) or plain(*args))
    resumed = measured(pair, x, path)
    assert torch.cat(done).tolist() == list(range(18, 45))
    for name in ("estimate", "std_error", "acceptance"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    done.clear()
    assert torch.equal(measured(pair, x, path).estimate, whole.estimate)
    assert not done


def test_a_checkpoint_of_another_measurement_is_refused(float64, tmp_path):
    pair, path = poor(), tmp_path / "chains"
    x = pair.sample(5)
    measured(pair, x, path)
    with pytest.raises(ppvae.CheckpointError, match=r"settings.start: found guide, expected prior"):
        measured(pair, x, path, start="prior")
    with pytest.raises(ppvae.CheckpointError, match=r"data.*CRC-32"):
        measured(pair, x + 1, path)
    pair.mean.data += 1
    with pytest.raises(ppvae.CheckpointError, match=r"pair.mean"):
        measured(pair, x, path)


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize(
    "make",
    [lambda: LinearVAE(5, 2), lambda: MarkovHVAE.mlp(5, [2, 2], hidden=[4], likelihood="gaussian")],
    ids=["one layer", "two"],
)
def test_densities_are_recorded(make, start, monkeypatch, caplog):
    """At the second evaluation, as hundreds follow."""
    recorded, compiled = [], repeated.compiled

    def counted(*args, **kwargs):
        recorded.append(compiled(*args, **kwargs))
        return recorded[-1]

    monkeypatch.setattr(repeated, "compiled", counted)
    settings = AIS(num_chains=4, num_temperatures=50, start=start)
    with caplog.at_level(logging.INFO, "ppvae"):
        ppvae.log_evidence(make(), torch.randn(3, 5), "ais", annealing=settings, seed=0, progress=False)
    assert len(recorded) == 1
    assert "uncompiled" not in caplog.text
