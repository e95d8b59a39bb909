"""Particle filters against Kalman: unbiased, errors that cover, and variance that grows with time as it should."""

from dataclasses import replace

import pytest
import torch

import ppvae
from ppvae import ContractError, Pair
from ppvae.inference.evidence.particle_filter import estimates, resampled
from ppvae.models import LinearGaussianStateSpace, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}


def state_space():
    torch.manual_seed(0)
    return LinearGaussianStateSpace(2, 2).requires_grad_(False)


def log_errors(pair, x, num, size, guided):
    """Logs of `num` filters' estimates over p(x), `[num, B]`."""
    torch.manual_seed(1)
    return estimates(pair, x, num, size, guided) - pair.log_prob(x)


@pytest.mark.parametrize("guided", [True, False])
def test_estimates_are_unbiased(guided):
    """Of ten sequences of several lengths, at so few particles that the log of an estimate is biased."""
    pair = state_space()
    x = pair.sample(pair.examples(10))
    log_error = log_errors(pair, (x, 1 + torch.arange(10)), 8000, 8, guided)
    ratio = log_error.exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / 8000**0.5).all()
    long = log_error[:, 5:]
    assert (long.mean(0) < -4.5 * long.std(0) / 8000**0.5).all()


def test_unguided_filter_ignores_the_guide(monkeypatch):
    pair = state_space()
    x = pair.sample(pair.examples(3))
    before = log_errors(pair, x, 4, 8, False)
    monkeypatch.setattr(pair, "_diagonal", lambda x, lengths: torch.full_like(x, 1e6))
    assert torch.equal(log_errors(pair, x, 4, 8, False), before)
    assert not torch.equal(log_errors(pair, x, 4, 8, True), before)


@pytest.mark.parametrize("method", ["particle filter", "bootstrap filter"])
def test_error_bars_cover(method):
    """Of 400 sequences: 95% of the intervals hold the exact value, within 3 standard errors of that share."""
    pair = state_space()
    x = pair.sample(pair.examples(400))
    record = ppvae.log_evidence(pair, x, method, 1600, **quiet)
    z = ((record.estimate - pair.log_prob(x)) / record.std_error)[record.reliable]
    assert len(z) > 390
    assert (z.abs() < 1.96).double().mean() > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5
    assert (record.method, record.num_particles) == (method, 1600)


@pytest.mark.slow(10)
@pytest.mark.parametrize(("num_particles", "trusted"), [(800, False), (6400, True)])
def test_few_particles_on_long_sequences_are_not_trusted(num_particles, trusted):
    """Where filters are too small, some agree by chance, all of them too low."""
    pair = state_space()
    x = pair.sample(pair.examples(200)[:, :1].expand(-1, 100, -1))
    record = ppvae.log_evidence(pair, x, "particle filter", num_particles, **quiet)
    error = record.estimate - pair.log_prob(x)
    if not trusted:
        assert record.reliable.double().mean() < 0.02
        return
    assert record.reliable.double().mean() > 0.9
    z = (error / record.std_error)[record.reliable]
    assert (z.abs() < 1.96).double().mean() > 0.95 - 3 * (0.05 * 0.95 / len(z)) ** 0.5


class Endless(LinearGaussianStateSpace):
    """Its steps go on past the sequences' lengths."""

    def time_steps(self, x, lengths=None):
        return super().time_steps(x)


class Hidden(LinearGaussianStateSpace):
    """It does not say that it knows its evidence."""

    def log_prob(self, *batch):
        return Pair.log_prob(self, *batch)


SHORT = ppvae.AIS(num_temperatures=20, num_leapfrog=2)


@pytest.mark.slow(30)
@pytest.mark.parametrize("method", ["auto", "best"])
def test_sequences_are_filtered_where_weights_fail(method):
    """Thirty steps, whose guide leaves out what the latents share: so short an AIS is nats too low."""
    pair, hidden = state_space(), Hidden(2, 2).requires_grad_(False)
    hidden.load_state_dict(pair.state_dict())
    x = pair.sample(pair.examples(12)[:, :1].expand(-1, 30, -1))
    starts = (SHORT, replace(SHORT, start="prior"))
    found = ppvae.log_evidence(hidden, x, method, 2000, annealing=starts[0] if method == "auto" else starts, **quiet)
    assert set(found.methods) == {"particle filter"}
    assert found.reliable.all()
    assert (((found.estimate - pair.log_prob(x)) / found.std_error).abs() < 4).all()
    assert (found.candidates["iwae"].estimate < pair.log_prob(x) - 1).any()
    said = "particle filter for the 12 of 12 data points whose k-hat is bad, and AIS finds no more on 12 of them"
    assert found.reason == said if method == "auto" else "particle filter for 12" in found.reason


def test_in_no_time_best_keeps_what_the_filter_found():
    pair, hidden = state_space(), Hidden(2, 2).requires_grad_(False)
    hidden.load_state_dict(pair.state_dict())
    x = pair.sample(pair.examples(12)[:, :1].expand(-1, 30, -1))
    found = ppvae.log_evidence(hidden, x, "best", 2000, annealing=SHORT, max_seconds=1e-6, **quiet)
    assert (
        found.reason == "in the time there was, AIS reached 0 of 12 data points; iwae or particle filter stands for all"
    )
    assert not found.reliable.any()
    filtered = found.candidates["particle filter"]
    assert (((found.estimate - pair.log_prob(x)) / filtered.std_error).abs() < 4).all()


def test_auto_anneals_where_steps_do_not_apply():
    """And says why they do not."""
    pair = Endless(2, 2).requires_grad_(False)
    pair.log_prob = lambda *batch: Pair.log_prob(pair, *batch)
    x, lengths = torch.randn(4, 6, 2), torch.tensor([2, 3, 6, 6])
    found = ppvae.log_evidence(pair, (x, lengths), "auto", 100, annealing=SHORT, **quiet)
    assert "particle filter" not in found.methods
    assert "particle filter does not apply: time_steps: found factors" in found.reason


@pytest.mark.slow(10)
def test_error_grows_slowly_with_time_where_importance_weights_are_lost():
    """From 10 to 40 steps the filter's variance grows about fourfold, and 3200 weights fall short by nats."""
    pair = state_space()
    x = pair.sample(pair.examples(20)[:, :1].expand(-1, 40, -1))
    few, many = (log_errors(pair, x[:, :num], 100, 100, False).var(0).mean() for num in (10, 40))
    assert 2.5 < many / few < 8
    filtered = ppvae.log_evidence(pair, x, "bootstrap filter", 3200, **quiet)
    weighed = ppvae.log_evidence(pair, x, "iwae", 3200, **quiet)
    short_of = [(pair.log_prob(x) - record.estimate).mean() for record in (filtered, weighed)]
    assert short_of[0] < 0.2
    assert short_of[1] > 1.5
    assert not weighed.reliable.any()


def test_a_narrow_guide_costs_little():
    """A tenth as wide, the guide is of no use, and the filter is about as good as one of half as many particles."""
    pair = state_space()
    x = pair.sample(pair.examples(20))
    alone = log_errors(pair, x, 100, 100, False).std(0).mean()
    wide = pair._diagonal
    pair._diagonal = lambda x, lengths: 100 * wide(x, lengths)
    assert log_errors(pair, x, 100, 200, True).std(0).mean() < 1.3 * alone


def test_resampling_keeps_counts_within_one_of_their_expectation():
    torch.manual_seed(0)
    log_w = 3 * torch.randn(5, 50, 4)
    labels = torch.arange(50.0).repeat(5)[:, None, None].expand(-1, 4, 1)
    z, after, mean = resampled(labels, log_w)
    counts = (z.unflatten(0, (5, 50)).squeeze(-1).unsqueeze(2) == torch.arange(50.0).reshape(1, 1, -1, 1)).sum(1)
    assert ((counts - 50 * log_w.softmax(1)).abs() < 1).all()
    assert torch.equal(after, torch.zeros(5, 50, 4))
    torch.testing.assert_close(mean, log_w.exp().mean(1).log())


def test_even_weights_are_left_alone_and_so_are_those_that_are_all_zero():
    z = torch.randn(8, 2, 1)
    log_w = torch.stack([0.1 * torch.randn(8), torch.full((8,), -torch.inf)], -1).unsqueeze(0)
    same, kept, mean = resampled(z, log_w)
    assert torch.equal(same, z)
    assert torch.equal(kept, log_w)
    assert torch.equal(mean, torch.zeros(1, 2))


def test_chunks_of_data_and_filters_make_no_difference_in_kind(monkeypatch):
    """In chunks so small that filters run one by one, the estimates agree within their errors."""
    pair = state_space()
    x = pair.sample(pair.examples(12))
    monkeypatch.setattr("ppvae.inference.runtime.chunks.CPU_ELEMENTS", 50_000)
    record = ppvae.log_evidence(pair, x, "particle filter", 1600, **quiet)
    assert ((record.estimate - pair.log_prob(x)).abs() < 4 * record.std_error).all()


def test_pair_without_steps_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"LinearVAE has no `time_steps`.*use method='auto'"):
        ppvae.log_evidence(LinearVAE(4, 2), torch.zeros(2, 4), "particle filter", **quiet)


@pytest.mark.parametrize("method", ["particle filter", "bootstrap filter"])
def test_steps_that_are_not_the_models_are_refused(method):
    pair = Endless(2, 2).requires_grad_(False)
    x, lengths = torch.randn(10, 6, 2), 1 + torch.arange(10) % 6
    with pytest.raises(
        ContractError, match=r"time_steps: found factors whose log probabilities sum to .* nats more or"
    ):
        ppvae.log_evidence(pair, (x, lengths), method, 160, **quiet)
    assert ppvae.log_evidence(pair, x, method, 160, **quiet).estimate.isfinite().all()


def test_comparing_steps_with_the_model_leaves_the_draws_as_they_are(monkeypatch):
    pair = state_space()
    x = pair.sample(pair.examples(12))
    compared = ppvae.log_evidence(pair, x, "particle filter", 160, **quiet)
    monkeypatch.setattr("ppvae.inference.evidence.particle_filter.refuse_other_steps", lambda *_: None)
    assert torch.equal(ppvae.log_evidence(pair, x, "particle filter", 160, **quiet).estimate, compared.estimate)
