"""A model that does not run with all values of a discrete latent at once: they are drawn, or taken one by one."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import normal
from torch import nn

import ppvae
from ppvae import ContractError, Effort, Pair
from ppvae.enumerable import guide_runs_enumerated, model_runs_enumerated
from ppvae.inference.ledger.ascent import Ascent

pytestmark = pytest.mark.usefixtures("float64")
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)


class Matrices(Pair):
    """A mixture, by a model that writes its dimensions out: `[K, B]`, and nothing to the left."""

    def __init__(self, masked=False):
        super().__init__()
        self.slope, self.masked = nn.Parameter(torch.tensor(0.7)), masked

    def emit(self, c):
        if c.dim() > 2:
            raise RuntimeError("takes [K, B] alone")
        return dist.Normal(MEANS[c], 1.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(PRIOR).mask(x > 0 if self.masked else True))
            pyro.sample("x", self.emit(torch.where(x > 0, c, torch.ones_like(c)) if self.masked else c), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", self.posterior(x).mask(x > 0 if self.masked else True))

    def posterior(self, x):
        return dist.Categorical(logits=self.slope * x[..., None] * MEANS + PRIOR.log())

    def log_joint(self, x):
        return PRIOR.log() + normal(x[:, None], MEANS, 1.0)

    def exact_bound(self, x):
        q = self.posterior(x).probs
        return (q * (self.log_joint(x) - q.log())).sum(-1)


@pytest.fixture
def x():
    return torch.randn(6)


@pytest.fixture
def pair(x):
    pair = Matrices()
    pair.check(x)
    return pair


def test_it_is_found_out(pair, x):
    assert not guide_runs_enumerated(pair, x)
    assert not model_runs_enumerated(pair, x)


def test_its_elbo_is_drawn(pair, x):
    found = ppvae.elbo(pair, x, 4000, seed=0, progress=False)
    assert (found.std_error > 0).all()
    assert ((found.estimate - pair.exact_bound(x)).abs() < 4 * found.std_error).all()


@pytest.mark.parametrize("method", ["auto", "exact", "best"])
def test_its_evidence_is_summed_value_by_value(method, pair, x):
    found = ppvae.log_evidence(pair, x, method, progress=False)
    torch.testing.assert_close(found.estimate, pair.log_joint(x).logsumexp(-1))


def test_a_masked_value_is_summed_out_to_nothing(x):
    found = ppvae.log_evidence(Matrices(masked=True), x, progress=False)
    exact = torch.where(x > 0, Matrices().log_joint(x).logsumexp(-1), normal(x, MEANS[1], 1.0))
    torch.testing.assert_close(found.estimate, exact)


def test_importance_weights_are_drawn(pair, x):
    found = ppvae.log_evidence(pair, x, "iwae", 4000, seed=0, progress=False)
    assert ((found.estimate - pair.log_joint(x).logsumexp(-1)).abs() < 5 * found.std_error).all()


def test_its_ledger_is_drawn(pair, x):
    effort = Effort("auto", 500, num_samples=2000, ascent=Ascent(max_steps=200), restarts=0, refit_steps=5)
    report = ppvae.gap(pair, x, effort, train=x, seed=0, progress=False)
    evidence = pair.log_joint(x).logsumexp(-1)
    assert ((report.elbo.estimate - pair.exact_bound(x)).abs() < 4 * report.elbo.std_error).all()
    assert ((report.elbo_refined.estimate - evidence).abs() < 0.15).all()
    assert "elbo_full_rank" in report.notes


def test_it_is_trained_by_draws(pair, x):
    """In the mean, the gradient of the exact bound."""
    (exact,) = torch.autograd.grad(pair.exact_bound(x).mean(), pair.slope)
    draws = torch.stack([torch.autograd.grad(ppvae.ELBO(50)(pair, x)[1], pair.slope)[0] for _ in range(60)])
    assert (draws.mean() - exact).abs() < 4 * draws.std() / 60**0.5
    with pytest.raises(ContractError, match=r"takes \[K, B\] alone.*ELBO\(num_particles=2\)"):
        ppvae.EnumeratedELBO()(pair, x)
    with pytest.raises(NotImplementedError):
        ppvae.ELBO(2).exact_value(pair, x)


def test_the_rest_draws_too(pair, x):
    assert ppvae.elbo_terms(pair, x, 20, progress=False).elbo.estimate.isfinite().all()
    assert (ppvae.calibration(pair, 50, 9, seed=0, progress=False)["rank"] >= 0).all()
    found = ppvae.to_arviz(pair, x, num_samples=4, progress=False)
    assert found.posterior["c"].shape == (1, 4, 6)


class Labels(Pair):
    """A label y and a latent z, in code that joins both and takes no further dimensions, unless these are expanded."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7))

    def weights(self):
        return torch.cat([self.slope.expand(1), MEANS])

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(PRIOR))
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, y], -1) @ self.weights(), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x[:, None] * MEANS), infer=self.infer)
            pyro.sample("z", dist.Normal(0.3 * (x[..., None] - y @ MEANS[:, None]), 0.8).to_event(1))

    infer = {}  # noqa: RUF012

    def exact(self, x):
        """log p(x), `[B]`, and the ELBO."""
        log_q = torch.log_softmax(x[:, None] * MEANS, -1)
        slope, scale, residual = self.slope.item(), 0.8, x[:, None] - MEANS
        loc = 0.3 * residual
        likelihood = normal(residual, slope * loc, 1.0) - (slope * scale) ** 2 / 2
        kl = (loc.square() + scale**2 - 1) / 2 - math.log(scale)
        evidence = (PRIOR.log() + normal(residual, 0.0, (1 + slope**2) ** 0.5)).logsumexp(-1)
        return evidence, (log_q.exp() * (likelihood - kl + PRIOR.log() - log_q)).sum(-1)


class ExpandedLabels(Labels):
    infer = {"expand": True}  # noqa: RUF012


def test_values_are_expanded_where_the_guide_says_so(x):
    with pytest.raises(ContractError, match=r"config_enumerate\(guide, expand=True\)"):
        ppvae.EnumeratedELBO()(Labels(), x)
    pair = ExpandedLabels()
    value = torch.stack([ppvae.EnumeratedELBO(50)(pair, x)[0] for _ in range(40)])
    assert ((value.mean(0) - pair.exact(x)[1]).abs() < 4 * value.std(0) / 40**0.5).all()


@pytest.mark.parametrize("kind", [Labels, ExpandedLabels])
def test_annealing_from_the_prior_does_not_apply(kind, x):
    pair = kind()
    found = ppvae.log_evidence(pair, x, num_particles=4000, seed=0, progress=False)
    assert "annealing does not apply" in found.reason
    assert ((found.estimate - pair.exact(x)[0]).abs() < 5 * found.std_error).all()
    with pytest.raises(ContractError, match=r"all values of its discrete latents at once.*method='iwae'"):
        ppvae.log_evidence(pair, x, "ais from prior", progress=False)
