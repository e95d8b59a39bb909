"""The VQ-VAE's bound, gradient and gap, against all codes, one by one."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import ELBO, VectorQuantizedELBO
from ppvae.models import (
    VQVAE,
    VQVAE2,
    AutoregressivePrior,
    Bernoulli,
    Codebook,
    FactorizedCodes,
    LinearCodes,
    UniformCodes,
)
from ppvae.models.codes import code_search
from ppvae.models.codes.code_vectors import CodeVectors
from ppvae.models.named_likelihoods import LIKELIHOODS

pytestmark = pytest.mark.usefixtures("float64")
K, P = 4, 3
quiet = {"seed": 0, "progress": False}


@pytest.fixture
def pair():
    pair = VQVAE.mlp(6, P, K, 2, [8])
    for parameter in pair.likelihood.parameters():
        parameter.data.mul_(2.0)  # so that codes matter
    return pair.eval()


@pytest.fixture
def x():
    return torch.rand(5, 6).round()


def learned(prior):
    for parameter in prior.parameters():
        nn.init.normal_(parameter)
    return prior


def joint_of_all(pair, x, num_codes=K, num_positions=P):
    """`log p(x, c)` for each of the K^P codes, `[K^P, B]`, one by one."""
    found = []
    for c in itertools.product(range(num_codes), repeat=num_positions):
        z = torch.stack([pair.codebook.codes[0, k] for k in c])
        found.append(pair.likelihood(z).log_prob(x) + pair.prior().log_prob(torch.tensor(c)))
    return torch.stack(found).detach()


def linear(shape, num_codes):
    return AutoregressivePrior(LinearCodes(shape, num_codes))


PRIORS = {"uniform": UniformCodes, "factorized": FactorizedCodes, "autoregressive": linear}


@pytest.mark.parametrize("name", PRIORS)
def test_evidence_is_the_sum_over_all_codes(pair, x, name, monkeypatch):
    pair.prior = learned(PRIORS[name]([P], K))
    exact = joint_of_all(pair, x).logsumexp(0)
    torch.testing.assert_close(ppvae.log_evidence(pair, x, progress=False).estimate, exact)
    monkeypatch.setattr(code_search, "ELEMENTS_AT_ONCE", 7 * x.numel())  # in pieces of seven, the last smaller
    torch.testing.assert_close(pair.log_prob(x), exact)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_under_any_likelihood_the_evidence_of_many_data_points_is_that_of_each(likelihood):
    flat = VQVAE.mlp(6, P, K, 2, [8], likelihood=likelihood, levels=3).eval()
    x = flat.sample(5)
    torch.testing.assert_close(flat.log_prob(x), joint_of_all(flat, x).logsumexp(0))
    torch.testing.assert_close(flat.exact_elbo(x), flat.log_weights(x, 1).log_w[0])
    maps = VQVAE2.convolutional((2, 2, 2), 2, 2, channels=4, num_halvings=1, likelihood=likelihood, levels=3).eval()
    x = maps.sample(5)
    torch.testing.assert_close(maps.log_prob(x), torch.cat([maps.log_prob(each) for each in x.split(1)]))
    torch.testing.assert_close(maps.exact_elbo(x), maps.log_weights(x, 1).log_w[0])
    assert (ppvae.gap(maps, x, "quick", **quiet).gap.estimate > 0).all()


@pytest.mark.parametrize("name", PRIORS)
def test_the_elbo_is_the_joint_at_the_nearest_codes_and_its_gap_their_posteriors(pair, x, name):
    pair.prior = learned(PRIORS[name]([P], K))
    joint, codes = joint_of_all(pair, x), pair.codes(x)
    number = (codes * K ** torch.arange(P - 1, -1, -1)).sum(-1)
    elbo = joint.gather(0, number[None])[0]
    torch.testing.assert_close(pair.log_weights(x, 3).log_w, elbo.expand(3, -1))
    torch.testing.assert_close(pair.exact_elbo(x), elbo)
    torch.testing.assert_close(ppvae.elbo(pair, x, progress=False).estimate, elbo)
    gap = ppvae.gap(pair, x, "quick", **quiet).gap
    torch.testing.assert_close(gap.estimate, -joint.log_softmax(0).gather(0, number[None])[0])


def test_the_kl_of_each_position_is_log_k(pair, x):
    terms = ppvae.elbo_terms(pair, x, 5, **quiet)
    torch.testing.assert_close(terms.latents["z"].kl.estimate, torch.full((5,), P * math.log(K)))
    value, _ = ELBO(kl="analytic")(pair, x)
    torch.testing.assert_close(value, pair.exact_elbo(x))


def test_the_encoders_gradient_is_that_at_the_codes(pair, x):
    h = pair.encoder(x)
    z = pair.codebook(h).mean.detach().requires_grad_()
    at_codes = torch.autograd.grad(pair.likelihood(z).log_prob(x).mean(), z)[0]
    encoder = list(pair.encoder.parameters())
    expected = torch.autograd.grad((h * at_codes).sum(), encoder)
    found = torch.autograd.grad(ELBO()(pair, x)[1], encoder)
    torch.testing.assert_close(found, expected)


def test_the_dictionary_has_the_bounds_own_gradient(pair, x):
    found = torch.autograd.grad(ELBO()(pair, x)[1], pair.codebook.weight)[0]
    index = pair.codes(x)
    weight = pair.codebook.weight.detach().clone().requires_grad_()
    expected = torch.autograd.grad(pair.likelihood(weight[0, index]).log_prob(x).mean(), weight)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["leading", "rows"])
def test_the_objective_is_the_elbo_less_the_distortion_in_its_gradient_alone(pair, x, layout):
    pair.particles = layout
    parameters = [*pair.encoder.parameters(), pair.codebook.weight]
    objective, plain = VectorQuantizedELBO(2, commitment=0.3), ELBO(2)
    torch.testing.assert_close(objective(pair, x)[0], plain(pair, x)[0])
    h = pair.encoder(x)
    e = pair.codebook.weight[0][pair.codes(x)]
    distortion = ((h.detach() - e).square() + 0.3 * (h - e.detach()).square()).sum((-1, -2)).mean()
    found, without, added = (
        torch.autograd.grad(scalar, parameters) for scalar in (objective(pair, x)[1], plain(pair, x)[1], distortion)
    )
    for a, b, c in zip(found, without, added, strict=True):
        torch.testing.assert_close(a, b - c)


def test_the_search_ends_where_no_single_change_helps(pair, x):
    joint, best = pair._joint(x), code_search.best_codes(pair._joint(x), pair.codes(x))
    value = joint(best[None])[0]
    for p, k in itertools.product(range(P), range(K)):
        changed = best.clone()
        changed[:, p] = k
        assert (joint(changed[None])[0] <= value + 1e-9).all()
    assert (value >= pair.exact_elbo(x)).all()
    assert (value <= joint_of_all(pair, x).amax(0) + 1e-9).all()


def test_the_ledger_parts_the_gap_at_the_searched_codes(pair, x):
    report = ppvae.gap(pair, x, **quiet)
    torch.testing.assert_close(report.elbo_refined.estimate, pair.best_elbo(x).detach())
    torch.testing.assert_close(
        report.amortization_gap.estimate + report.approximation_gap.estimate, report.gap.estimate
    )
    assert report.amortization_gap.mean().estimate > 0
    assert report.approximation_gap.mean().estimate > 0
    assert report.elbo_full_rank is None
    assert report.elbo_flow is None
    assert "discrete" in report.notes["elbo_full_rank"]


@pytest.mark.parametrize("name", PRIORS)
def test_tempered_weights_have_the_mean_p(pair, x, name, assert_mean):
    pair.prior = learned(PRIORS[name]([P], K))
    exact = joint_of_all(pair, x).logsumexp(0)
    with torch.no_grad():
        log_w = pair.proposal().log_weights(x, 5000).log_w
    assert_mean((log_w - exact).exp(), 1.0)
    every = torch.cartesian_prod(*[torch.arange(K)] * P)
    log_likelihood = joint_of_all(pair, x) - pair.prior().log_prob(every)[:, None]
    assert (log_w <= math.log(5) + log_likelihood.amax(0) + 1e-9).all()  # four temperatures, and the prior


@pytest.mark.parametrize("num_codes", [1, 3])
def test_tempered_weights_of_one_code_and_of_codes_that_coincide(num_codes, x):
    """Codes without a spread have no distance to be softened by it."""
    pair = VQVAE.mlp(6, P, num_codes, 2, [8])
    pair.codebook.weight.data.copy_(torch.tensor([0.1, 0.7]))
    exact = joint_of_all(pair, x, num_codes).logsumexp(0)
    torch.testing.assert_close(pair.tempered().log_weights(x, 50).log_w, exact.expand(50, -1))
    pair.tempered().log_weights(x).log_w.mean().backward()
    assert all(p.grad.isfinite().all() for p in pair.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["factorized", "autoregressive"])
def test_under_a_learned_prior_codes_that_coincide_are_not_drawn_for_weights(pair, x, name):
    """A vector would not tell which of them was drawn; the sum over all codes needs no draws."""
    pair.prior = learned(PRIORS[name]([P], K))
    with torch.no_grad():
        pair.codebook.weight[0, 3] = pair.codebook.weight[0, 1]
    torch.testing.assert_close(pair.log_prob(x), joint_of_all(pair, x).logsumexp(0))
    assert (pair.log_weights(x).log_w <= pair.log_prob(x)).all()
    with pytest.raises(ppvae.ContractError, match="codebook: found codes 1 and 3 at the same place"):
        ppvae.log_evidence(pair, x, method="iwae", **quiet)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("num_positions", [2, 6])
def test_a_codebook_for_each_position_is_shared_by_all_rows(num_positions, num_particles, assert_mean):
    """As many rows as codebooks, or others: a codebook's first dimension is none of rows."""
    encoder = nn.Sequential(nn.Linear(6, 2 * num_positions), nn.Unflatten(-1, (num_positions, 2)))
    decoder = nn.Sequential(nn.Flatten(-2), nn.Linear(2 * num_positions, 6))
    codebook = Codebook(2, 2, num_codebooks=num_positions)
    pair = VQVAE(encoder, codebook, Bernoulli(decoder), linear([num_positions], 2)).eval()
    x = torch.rand(6 // num_particles, 6).round()
    pair.check(x)
    exact = pair.log_prob(x)
    nearest = codebook(encoder(x)).mean
    elbo = pair.likelihood(nearest).log_prob(x) + pair._prior().log_prob(nearest)
    assert torch.equal(pair.log_weights(x, num_particles).log_w, elbo.expand(num_particles, -1))
    with torch.no_grad():
        for particles in ("leading", "rows"):
            tempered = pair.tempered()
            tempered.particles = particles
            assert_mean((tempered.log_weights(x, 2000).log_w - exact).exp(), 1.0)


def test_weights_have_the_mean_p_where_codes_are_more_than_what_they_can_be_placed_at(assert_mean):
    """Codes that coincide would have the probability of the first: theirs under a learned prior is another."""
    x = torch.eye(6)[torch.arange(20) % 2]
    pair = VQVAE.mlp(6, 1, 8, 2, [8]).init_from(x)
    pair.restart_dead_codes(x)
    pair = pair.second_stage(learned(FactorizedCodes([1], 8)))
    exact = joint_of_all(pair, x[:2], 8, 1).logsumexp(0)
    with torch.no_grad():
        assert_mean((pair.proposal().log_weights(x[:2], 5000).log_w - exact).exp(), 1.0)


def test_where_codes_are_too_many_for_a_sum_weights_come_from_the_proposal(pair, x, monkeypatch):
    exact = joint_of_all(pair, x).logsumexp(0)
    monkeypatch.setattr(code_search, "MOST_CODES", 10)
    with pytest.raises(NotImplementedError, match=r"found 4\^3 codes, expected 10 at most"):
        pair.log_prob(x)
    found = ppvae.log_evidence(pair, x, num_particles=20_000, **quiet)
    assert ((found.estimate - exact).abs() < 4 * found.std_error).all()
    assert set(found.methods) == {"iwae"}
    assert found.reliable.any()
    gap = ppvae.gap(pair, x, "quick", **quiet).mean()
    assert gap.estimate > 0.5  # not zero, as it would be by weights from the guide


@pytest.mark.parametrize("name", ["factorized", "autoregressive"])
def test_the_second_stage_gains_what_the_codes_cross_entropy_saves(pair, x, name):
    """`P log K - cross-entropy`, for each data point, whatever the prior."""
    after = pair.second_stage(learned(PRIORS[name]([P], K))).train()
    cross_entropy = -after.prior().log_prob(pair.codes(x))
    gained = ppvae.elbo(after, x, **quiet).estimate - ppvae.elbo(pair, x, **quiet).estimate
    torch.testing.assert_close(gained, (P * math.log(K) - cross_entropy).detach())


def test_in_the_second_stage_the_prior_alone_learns():
    pair = VQVAE.mlp(6, 2, 3, 2, [5], decay=0.5)
    x = torch.rand(40, 6).round()
    after = pair.second_stage(FactorizedCodes([2], 3))
    ppvae.fit(after, x, steps=300, batch_size=40, lr=0.1, schedule=lambda done: 1 - done, progress=False)
    assert torch.equal(after.codes(x), pair.codes(x))
    assert torch.equal(after.codebook.weight, pair.codebook.weight)
    assert any(p.requires_grad for p in pair.encoder.parameters())
    counts = torch.stack([(pair.codes(x) == k).sum(0) for k in range(3)], -1)
    entropy = dist.Categorical(counts / 40).entropy().sum()  # the least cross-entropy of a table
    gained = (after.exact_elbo(x) - pair.exact_elbo(x)).mean()
    assert 0 <= 2 * math.log(3) - entropy - gained < 0.01


@pytest.mark.parametrize("prior", [FactorizedCodes([2, 2], 3), linear([2, 2], 3)])
def test_learned_priors_are_distributions(prior):
    prior = learned(prior.to(torch.float64))()
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 2, 2)
    probability = prior.log_prob(every).exp()
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))
    num = 20_000
    drawn = (prior.sample((num,)).flatten(1) * 3 ** torch.arange(3, -1, -1)).sum(-1)
    counts = torch.bincount(drawn, minlength=81)
    z = (counts / num - probability) / (probability * (1 - probability) / num).sqrt()
    assert z.abs().max() < 4.5


def test_maps_of_codes_with_a_codebook_for_each_column():
    encoder = nn.Sequential(nn.Linear(6, 12), nn.Unflatten(-1, (2, 3, 2)))
    decoder = nn.Sequential(nn.Flatten(-3), nn.Linear(12, 6))
    pair = VQVAE(encoder, Codebook(2, 2, num_codebooks=3), Bernoulli(decoder), UniformCodes([2, 3], 2))
    x = pair.sample(7)
    assert pair.codes(x).shape == (7, 2, 3)
    pair.check(x)
    found = ppvae.gap(pair, x, "quick", **quiet)
    assert (found.gap.estimate > 0).all()
    assert pair.reconstruct(x).shape == (7, 6)
    assert torch.equal(pair.encode(x).mean, pair.codebook(pair.encoder(x), 3).mean)


def test_vectors_of_no_code_have_no_probability():
    z = CodeVectors(UniformCodes([2], 3)(), torch.randn(1, 3, 2))
    drawn = z.sample((5,))
    torch.testing.assert_close(z.log_prob(drawn), torch.full((5,), -2 * math.log(3)))
    assert (z.log_prob(drawn + 1e-3) == -torch.inf).all()
    assert z.support.check(drawn).all()
    assert not z.support.check(drawn + 1e-3).any()


@pytest.mark.slow(8)
def test_on_digits_evidence_elbo_tempered_weights_and_ledger_agree():
    """Of a trained pair: with the sum over all 8^3 codes, with the best of them, and with one another."""
    digits = ppvae.datasets.load("digits", binarize="dynamic")
    train, x = digits.transform(digits.train.double()), digits.test[:60].double()
    torch.manual_seed(0)
    pair = VQVAE.mlp(64, 3, 8, 4, [50], decay=0.99).init_from(train)
    ppvae.fit(pair, train, VectorQuantizedELBO(), steps=600, batch_size=100, lr=3e-3, seed=0, progress=False)
    pair.eval()
    joint = joint_of_all(pair, x, 8, 3)
    exact, best = joint.logsumexp(0), joint.amax(0)
    report = ppvae.gap(pair, x, **quiet)
    torch.testing.assert_close(report.log_evidence.estimate, exact)
    torch.testing.assert_close(report.elbo.estimate, pair.exact_elbo(x).detach())
    torch.testing.assert_close(report.gap.estimate, exact - pair.exact_elbo(x).detach())
    refined = report.elbo_refined.estimate  # a search by single positions: it may miss the best code
    assert (refined >= report.elbo.estimate - 1e-9).all()
    assert (refined <= best + 1e-9).all()
    torch.testing.assert_close(report.approximation_gap.estimate, exact - refined)
    found = ppvae.log_evidence(pair.proposal(), x, "iwae", num_particles=5000, **quiet)
    assert found.reliable.sum() > 30
    assert ((found.estimate - exact).abs() < 4 * found.std_error)[found.reliable].all()


@pytest.mark.parametrize("decay", [None, 0.9])
def test_training_raises_the_bound(decay):
    x = (torch.randn(200, 2) @ torch.randn(2, 12) > 0).to(torch.get_default_dtype())
    pair = VQVAE.mlp(12, 2, 4, 2, [20], decay=decay).init_from(x)
    before = pair.exact_elbo(x).mean().item()
    ppvae.fit(pair, x, VectorQuantizedELBO(), epochs=40, batch_size=50, lr=0.01, progress=False)
    pair.eval()
    assert pair.exact_elbo(x).mean().item() > before + 1
    assert (pair.log_prob(x) >= pair.exact_elbo(x)).all()
