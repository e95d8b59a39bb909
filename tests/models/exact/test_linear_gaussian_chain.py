"""The linear-Gaussian chain: its closed forms against each other, and what is measured of it against them."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import LinearGaussianChain, LinearVAE

SIZES = [3, 2, 2]  # of z1, z2, z3
FEATURES = 4


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def chain(guide="independent", sizes=SIZES):
    """Of unequal noises and a mean, with the best guide of its family."""
    pair = LinearGaussianChain(FEATURES, sizes, guide)
    with torch.no_grad():
        pair.log_sigmas.copy_(torch.tensor([0.7, 0.6, 0.8, 1.1])[: len(sizes)].log())
        pair.mean.copy_(torch.arange(4.0))
    return pair.fit_guide()


def test_samples_have_the_joint_moments(assert_mean):
    pair = chain()
    drawn = pair.sample_joint(40_000)
    v = torch.cat([drawn[name] for name in ("x", "z1", "z2", "z3")], -1) - pair.joint().loc
    assert_mean(v, torch.zeros(sum(pair.sizes)), k=4.5)
    assert_mean((v.unsqueeze(-1) * v.unsqueeze(-2)).flatten(1), pair.joint().covariance_matrix.flatten(), k=4.5)


def test_evidence_is_that_of_the_recursion():
    """`S_l = W_l S_{l+1} W_l' + s_l^2 I`, from the top down to x."""
    pair = chain()
    S = torch.eye(SIZES[-1])
    for W, log_sigma in zip(reversed(pair.weights), reversed(pair.log_sigmas), strict=True):
        S = W @ S @ W.T + (2 * log_sigma).exp() * torch.eye(len(W))
    x = pair.sample(5)
    torch.testing.assert_close(pair.log_prob(x), MultivariateNormal(pair.mean, S).log_prob(x))


def test_posterior_is_bayes_rule():
    """`log p(x, z) - log p(x)`, at any z; and its precision ties none but neighbors."""
    pair, x = chain(), torch.randn(5, FEATURES)
    z = torch.randn(5, sum(SIZES))
    joint = pair.joint().log_prob(torch.cat([x, z], -1))
    torch.testing.assert_close(pair.posterior(x).log_prob(z), joint - pair.log_prob(x))
    assert pair.posterior(x).precision_matrix[0, :3, 5:].abs().max() < 1e-12


@pytest.mark.parametrize("sizes", [[2], [3, 2], SIZES, [1, 2, 3, 1]])
def test_exact_guide_has_constant_weights(sizes):
    """Whatever is drawn, `p(x, z) / q(z | x)` is p(x): the gap is 0."""
    pair = chain("exact", sizes)
    x = pair.sample(4)
    torch.testing.assert_close(pair.log_weights(x, 20).log_w, pair.log_prob(x).expand(20, 4))
    assert pair.exact_gap(x).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", [[2], [3, 2], SIZES])
def test_no_independent_guide_is_better_than_the_best(sizes):
    """Its gap is the closed form at every x, the gradient of the exact ELBO vanishes there, and moving costs."""
    pair = chain("independent", sizes)
    x, best = pair.sample(6), pair.factorized_gap()
    torch.testing.assert_close(pair.exact_gap(x), best.expand(6))
    own = [*pair.encoder.parameters(), pair.posterior_scale]
    assert max(g.abs().max() for g in torch.autograd.grad(pair.exact_elbo(x).sum(), own)) < 1e-10
    with torch.no_grad():
        for parameter in own:
            parameter += 0.01 * torch.randn_like(parameter)
    assert (pair.exact_gap(x) > best).all()


@pytest.mark.parametrize("guide", ["independent", "exact"])
@pytest.mark.parametrize("sizes", [[2], SIZES])
def test_terms_add_up_to_the_elbo(guide, sizes):
    pair = chain(guide, sizes)
    x = pair.sample(6)
    terms = pair.exact_elbo_terms(x)
    elbo = pair.log_prob(x) - kl_divergence(pair._q(x), pair.posterior(x))
    torch.testing.assert_close(terms.pop("x") - sum(terms.values()), elbo)


def test_one_layer_is_the_linear_vae():
    pair, linear = chain(sizes=[2]), LinearVAE(FEATURES, 2)
    with torch.no_grad():
        linear.weight.copy_(pair.weights[0])
        linear.log_sigma.copy_(pair.log_sigmas[0])
        linear.mean.copy_(pair.mean)
    linear.fit_guide()
    x = pair.sample(5)
    torch.testing.assert_close(pair.log_prob(x), linear.log_prob(x))
    torch.testing.assert_close(pair.factorized_gap(), linear.factorized_gap())
    torch.testing.assert_close(pair.exact_elbo(x), linear.exact_elbo(x))
    torch.testing.assert_close(pair.encoder(x), linear.encoder(x))


@pytest.mark.slow(9)
@pytest.mark.parametrize("guide", ["independent", "exact"])
def test_what_is_measured_of_three_layers_is_the_closed_form(guide):
    """log p(x) by annealed chains, the ELBO, and each of its terms, within 3 standard errors."""
    pair = chain(guide)
    x = pair.sample(30)
    exact = pair.exact_elbo_terms(x) | {"elbo": pair.exact_elbo(x), "log p": pair.log_prob(x[:10])}
    terms = ppvae.elbo_terms(pair, x, 400, seed=1, progress=False)
    measured = {name: usage.kl for name, usage in terms.latents.items()}
    measured |= {"x": terms.expected_log_likelihood, "elbo": terms.elbo}
    chains = ppvae.AIS(num_chains=32, num_temperatures=60)
    measured["log p"] = ppvae.log_evidence(pair, x[:10], "ais", annealing=chains, seed=1, progress=False)
    assert measured.keys() == exact.keys()
    for name, line in measured.items():
        mean = line.mean()
        assert abs(mean.estimate - exact[name].mean()) < 3 * mean.monte_carlo_error + 1e-9, name
    assert {name: usage.is_kl for name, usage in terms.latents.items()} == {
        "z1": guide == "independent",
        "z2": guide == "independent",
        "z3": True,
    }
    gap = ppvae.gap(pair, x, "quick", seed=1, progress=False).mean()
    assert abs(gap.estimate - pair.exact_gap(x).mean()) < 3 * gap.monte_carlo_error + 1e-9


@pytest.mark.slow(10)
def test_the_ledger_calls_the_independent_guides_gap_one_of_its_family():
    """The approximation gap is the closed form; the amortization gap nothing, and off the optimum what was added."""
    pair = chain()
    x, factorized = pair.sample(10), pair.factorized_gap().item()
    effort = ppvae.Effort(num_samples=2000, ascent=Ascent(), restarts=0, richer=False)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    family, amortized = report.approximation_gap.mean(), report.amortization_gap.mean()
    assert factorized > 0.5
    assert abs(family.estimate - factorized) < 3 * family.monte_carlo_error
    assert abs(amortized.estimate) < 3 * amortized.monte_carlo_error
    with torch.no_grad():
        pair.encoder.bias += 0.3
    added = (pair.exact_gap(x) - factorized).mean().item()
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    family, amortized = report.approximation_gap.mean(), report.amortization_gap.mean()
    assert added > 0.2
    assert abs(family.estimate - factorized) < 3 * family.monte_carlo_error
    assert abs(amortized.estimate - added) < 3 * amortized.monte_carlo_error


def test_training_finds_the_best_independent_guide():
    """Of a model that is frozen, up to a tenth of a nat."""
    pair = LinearGaussianChain(FEATURES, [2, 2])
    for parameter in (*pair.weights, pair.log_sigmas, pair.mean):
        parameter.requires_grad_(False)
    x = pair.sample(400)
    before = pair.exact_gap(x).mean()
    ppvae.fit(pair, x, epochs=60, batch_size=100, lr=0.03, progress=False)
    assert before > pair.factorized_gap() + 0.5
    assert pair.exact_gap(x).mean() < pair.factorized_gap() + 0.1


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_latents: found no layers"):
        LinearGaussianChain(3, [])
    with pytest.raises(ValueError, match="guide: found 'ladder', expected 'independent' or 'exact'"):
        LinearGaussianChain(3, [2], guide="ladder")
