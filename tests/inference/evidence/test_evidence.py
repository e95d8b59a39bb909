"""Log evidence, ELBO and gap against exact values; honest error bars; bounded memory; refusals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import digamma, polygamma
from support.oracle_pairs import Bimodal
from torch import nn

from ppvae import AIS, Pair
from ppvae.inference.evidence.estimates import elbo, log_evidence
from ppvae.inference.ledger.decomposition import gap
from ppvae.inference.ledger.effort import Effort
from ppvae.inference.runtime import chunks
from ppvae.inference.runtime.records import EvidenceUndefined
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


class NoClosedForm(LinearVAE):
    """A linear VAE that does not know its own evidence."""

    def log_prob(self, x):
        return Pair.log_prob(self, x)


class ExponentialWeights(Pair):
    """Importance weights that are draws of Exp(1)."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Exponential(torch.ones(())))
            pyro.factor("weight", z.log())

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Exponential(torch.ones(())))


class Mixture(Pair):
    """Two Bernoulli components and a guide that amortizes their responsibilities, wrongly."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[-1.0, 2.0, 0.5], [1.0, -0.5, -2.0]]))
        self.encoder = nn.Linear(3, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Bernoulli(logits=self.logits[c]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=self.encoder(x)))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 20_000)


def linear(cls=LinearVAE, offset=0.0):
    """W'W is not diagonal, so that the best diagonal guide has a gap; an offset makes it larger."""
    pair = cls(num_features=4, num_latents=2)
    pair.weight.data = torch.tensor([[1.0, 0.4], [0.8, 0.4], [0.3, -0.3], [0.0, 0.9]])
    pair.fit_guide()
    pair.encoder.bias.data += offset
    return pair


@pytest.fixture
def assert_calibrated(assert_mean):
    """The errors have the mean they should, and the mean square that the standard errors say."""

    def check(error, std_error, bias=0.0):
        assert_mean(error - bias, 0.0)
        assert_mean(error.square() - std_error.square(), 0.0)

    return check


def posterior_precision(pair):
    return (pair.weight.T @ pair.weight * (-2 * pair.log_sigma).exp() + torch.eye(2)).detach()


def closed_form_gap(pair):
    precision = posterior_precision(pair)
    return (precision.diagonal().log().sum() - torch.logdet(precision)) / 2


def marginal(pair):
    cov = pair.weight @ pair.weight.T + (2 * pair.log_sigma).exp() * torch.eye(4)
    return dist.MultivariateNormal(pair.mean, cov.detach())


# Values


def test_auto_is_exact_where_the_pair_knows():
    pair, x = linear(), torch.randn(7, 4)
    found = log_evidence(pair, x)
    torch.testing.assert_close(found.estimate, marginal(pair).log_prob(x).detach())
    assert (found.method, found.num_particles, found.warning) == ("exact", 0, "")
    assert (found.std_error == 0).all()
    assert found.ess.isnan().all()
    assert found.khat.isnan().all()


def test_auto_sums_discrete_latents_out():
    pair, x = Mixture(), torch.bernoulli(torch.full((9, 3), 0.5))
    found = log_evidence(pair, x)
    likelihood = dist.Bernoulli(logits=pair.logits).to_event(1).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(found.estimate, torch.logsumexp(likelihood + torch.tensor([0.3, 0.7]).log(), 1).detach())


@pytest.mark.slow(6)
def test_auto_is_iwae_otherwise():
    found = log_evidence(linear(NoClosedForm), torch.randn(3, 4), seed=0)
    said = "iwae, as k-hat is good for all data points, and AIS finds no more on 3 of them"
    assert (found.method, found.reason) == ("iwae", said)


def test_iwae_and_its_standard_error_are_right(assert_calibrated):
    pair, x = linear(), torch.randn(1000, 4)
    found = log_evidence(pair, x, "iwae", num_particles=1000, seed=0)
    error = found.estimate - marginal(pair).log_prob(x).detach()
    assert_calibrated(error, found.std_error, bias=-found.std_error.square() / 2)


def test_ess_is_that_of_the_exact_second_moment(assert_mean):
    """K / ESS is 1 + chi^2: by oracle 2 of the design, here with m_p = m_q, so `|A| = |2 Lp - Lq|` alone."""
    pair, x = linear(), torch.randn(300, 4)
    posterior = posterior_precision(pair)
    guide = posterior.diagonal().diag()
    log_ratio = torch.logdet(posterior) - torch.logdet(guide) / 2 - torch.logdet(2 * posterior - guide) / 2
    found = log_evidence(pair, x, "iwae", num_particles=1000, seed=0)
    assert_mean(1000 / found.ess, log_ratio.exp().item())


@pytest.mark.parametrize("num_particles", [1, 2, 10, 100])
def test_exponential_weights(num_particles, assert_mean):
    """E[IWAE_K] = digamma(K) - log K, variance trigamma(K)."""
    found = log_evidence(ExponentialWeights(), torch.zeros(4000), "iwae", num_particles, seed=0)
    exact = digamma(num_particles) - math.log(num_particles)
    assert_mean(found.estimate, exact)
    assert_mean((found.estimate - exact).square(), float(polygamma(1, num_particles)))


def test_elbo_and_its_standard_error_are_right(assert_calibrated):
    pair, x = linear(), torch.randn(1000, 4)
    exact = marginal(pair).log_prob(x).detach() - closed_form_gap(pair)
    found = elbo(pair, x, num_samples=300, seed=0)
    assert_calibrated(found.estimate - exact, found.std_error)


@pytest.mark.parametrize("method", ["exact", "iwae"])
def test_gap_is_the_closed_form(method, assert_calibrated):
    pair, x = linear(), torch.randn(500, 4)
    found = gap(pair, x, Effort(method, 1000, num_samples=200, ascent=None), seed=0)
    torch.testing.assert_close(found.gap.estimate, found.log_evidence.estimate - found.elbo.estimate)
    torch.testing.assert_close(found.gap.std_error**2, found.log_evidence.std_error**2 + found.elbo.std_error**2)
    assert closed_form_gap(pair) > 10 * found.mean().monte_carlo_error
    assert abs(found.mean().estimate - closed_form_gap(pair)) < 4 * found.mean().monte_carlo_error
    bias = -found.log_evidence.std_error.square() / 2
    assert_calibrated(found.gap.estimate - closed_form_gap(pair), found.gap.std_error, bias)


def test_discrete_sites_of_the_guide_are_summed_exactly():
    pair, x = Mixture(), torch.bernoulli(torch.full((9, 3), 0.5))
    found = gap(pair, x, Effort("exact", num_samples=2, ascent=None))
    likelihood = dist.Bernoulli(logits=pair.logits).to_event(1).log_prob(x.unsqueeze(1))
    posterior = dist.Categorical(logits=likelihood + torch.tensor([0.3, 0.7]).log())
    exact = torch.distributions.kl_divergence(dist.Categorical(logits=pair.encoder(x)), posterior)
    torch.testing.assert_close(found.gap.estimate, exact.detach())
    assert (found.elbo.std_error < 1e-12).all()


def test_higher_is_better():
    x = torch.randn(200, 4)
    good, bad = linear(), linear(offset=2.0)
    worse = linear()
    worse.mean.data += 3.0
    assert elbo(good, x, seed=0).mean().estimate > elbo(bad, x, seed=0).mean().estimate
    assert log_evidence(good, x).mean().estimate > log_evidence(worse.fit_guide(), x).mean().estimate


def test_mean_has_two_error_bars():
    x = torch.randn(50, 4)
    found = log_evidence(linear(), x, "iwae", num_particles=20)
    mean = found.mean()
    assert mean.estimate == pytest.approx(found.estimate.mean().item())
    assert mean.std_error == pytest.approx(found.estimate.std().item() / 50**0.5)
    assert mean.monte_carlo_error == pytest.approx(found.std_error.square().sum().sqrt().item() / 50)
    assert mean.num_points == 50


def test_one_draw_has_no_standard_error():
    x = torch.randn(5, 4)
    assert log_evidence(linear(), x, "iwae", num_particles=1).std_error.isnan().all()
    assert elbo(linear(), x, num_samples=1).std_error.isnan().all()
    assert math.isnan(log_evidence(linear(), x[:1]).mean().std_error)


def test_heavy_tails_are_announced():
    pair, x = linear(), torch.randn(50, 4)
    assert log_evidence(pair, x, "iwae", num_particles=1000).warning == ""
    pair.posterior_scale.data -= 5.0  # far too narrow: k is nearly 1
    found = log_evidence(pair, x, "iwae", num_particles=1000)
    assert 25 < (found.khat > 0.7).sum() < 50  # the others have missed their tails
    assert not found.reliable.any()
    assert "unreliable for 50 of 50 data points (k-hat > 0.7" in found.warning


def test_an_exact_guide_is_not_warned_of():
    pair, x = LinearVAE(num_features=4, num_latents=2, guide="exact").float(), torch.randn(50, 4, dtype=torch.float32)
    found = gap(pair, x, Effort("iwae", 1000, ascent=None))
    assert found.gap.warning == ""
    assert (found.gap.estimate.abs() < 1e-5).all()
    torch.testing.assert_close(found.log_evidence.ess, torch.full((50,), 1000.0), rtol=1e-6, atol=0)


# Chunks


@pytest.mark.slow(8)
def test_batches_may_be_dicts_and_rows_keep_their_order(small_chunks):
    class Named(NoClosedForm):
        def model(self, image, unused):
            super().model(image)

        def guide(self, image, unused):
            super().guide(image)

    x = torch.randn(30, 4)
    found = log_evidence(linear(Named), {"image": x, "unused": torch.zeros(30)}, num_particles=300, seed=0)
    assert ((found.estimate - marginal(linear()).log_prob(x)) / found.std_error).abs().max() < 5


# What surrounds a measurement


def test_a_seed_reproduces_and_leaves_the_callers_generator():
    pair, x = linear(NoClosedForm), torch.randn(5, 4)
    state = torch.get_rng_state()
    first, second = (gap(pair, x, Effort("iwae", 50, ascent=None), seed=3).gap.estimate for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(
        gap(pair, x, Effort("iwae", 50, ascent=None)).gap.estimate,
        gap(pair, x, Effort("iwae", 50, ascent=None)).gap.estimate,
    )


def test_measures_in_eval_mode_without_gradients_and_restores_all():
    class Watched(NoClosedForm):
        def model(self, x):
            seen.add((self.training, torch.is_grad_enabled()))
            if fail:
                raise KeyError
            super().model(x)

    seen, fail = set(), False
    pair = linear(Watched)
    pair.encoder.eval()
    validated = torch.distributions.Distribution._validate_args
    elbo(pair, torch.randn(3, 4))
    fail = True
    with pytest.raises(KeyError):
        elbo(pair, torch.randn(3, 4))
    assert seen == {(False, False)}
    assert pair.training
    assert not pair.encoder.training
    assert torch.distributions.Distribution._validate_args == validated
    assert torch.is_grad_enabled()


# Refusals


@pytest.mark.parametrize("measure", [log_evidence, elbo, gap])
def test_a_pair_without_evidence_says_why(measure):
    pair = linear()
    pair.evidence_undefined = "its encoder is deterministic"
    with pytest.raises(EvidenceUndefined, match="LinearVAE has no evidence: its encoder is deterministic"):
        measure(pair, torch.randn(3, 4))


def test_exact_evidence_is_refused_where_there_is_none():
    with pytest.raises(NotImplementedError, match="latent site 'z' cannot be summed out exactly"):
        log_evidence(linear(NoClosedForm), torch.randn(3, 4), "exact")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, x: log_evidence(pair, x, num_particles=0), "num_particles: found 0, expected at least 1"),
        (lambda pair, x: elbo(pair, x, num_samples=0), "num_samples: found 0, expected at least 1"),
        (lambda pair, x: gap(pair, x, Effort(num_samples=-1)), "num_samples: found -1, expected at least 1"),
        (lambda pair, x: log_evidence(pair, x, "magic"), "method: found 'magic', expected one of"),
        (lambda pair, x: log_evidence(pair, x[:0]), "found 0 data points"),
        (lambda pair, x: elbo(pair, x.index_fill(0, torch.tensor(2), math.nan)), r"found nan at index \(2, 0\)"),
        (lambda pair, x: elbo(pair, x * torch.tensor([1, 1, 1e200]).unsqueeze(-1)), "-inf nats at row 2"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear(NoClosedForm), torch.randn(3, 4))


@pytest.mark.parametrize("measure", [log_evidence, elbo])
def test_a_row_outside_the_support_is_named(measure, small_chunks):
    x = torch.bernoulli(torch.full((300, 3), 0.5))
    x[200, 1] = 2.0
    with pytest.raises(ValueError, match=r"found row 200 outside the support of the likelihood at site 'x' \(1 such"):
        measure(Mixture(), x)


@pytest.mark.parametrize("num_chains", [7, 1])
def test_auto_goes_on_to_best_with_an_odd_number_of_chains(num_chains):
    """The guide leaves out a mode, which AIS from the prior finds; "best" then splits the chains into halves."""
    x = torch.tensor([2.0, 3.0, 4.0, 2.5])
    settings = AIS(num_chains=num_chains, num_temperatures=60, num_leapfrog=2)
    found = log_evidence(Bimodal(), x, "auto", 200, annealing=settings, seed=0, progress=False)
    assert found.reason.startswith("best, as AIS from the prior finds 0.")
    assert found.candidates["ais"].num_particles == num_chains + 1
