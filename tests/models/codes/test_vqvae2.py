"""VQ-VAE-2: bound, gap and second stage, against all codes of both levels, one by one."""

import itertools
import math

import pytest
import torch

import ppvae
from ppvae import VectorQuantizedELBO
from ppvae.models import VQVAE2
from ppvae.models.codes import code_search

pytestmark = pytest.mark.usefixtures("float64")
K = 3
quiet = {"seed": 0, "progress": False}


def small(**settings):
    """Codes 1x1 above 2x2: 3^5 in all."""
    return VQVAE2.convolutional((1, 4, 4), K, 2, channels=4, num_halvings=1, **settings)


@pytest.fixture
def pair():
    pair = small().init_from(torch.rand(60, 1, 4, 4).round())
    for parameter in pair.likelihood.parameters():
        parameter.data.mul_(3.0)  # so that codes matter
    return pair.eval()


@pytest.fixture
def x():
    return torch.rand(5, 1, 4, 4).round()


def learned(pair):
    """With priors of the second stage that are far from uniform."""
    after = pair.second_stage(*pair.pixel_priors(width=4, num_layers=2)).eval()
    for prior in (after.top.prior, after.bottom.prior):
        for p in prior.parameters():
            p.data += 0.5 * torch.randn_like(p)
    return after


def log_prior(pair, top, bottom):
    """Of indices `[1, 1]` and `[2, 2]`."""
    above = pair.top.codebook.codes[0, top].expand(2, 2, 2)
    return pair.top.prior().log_prob(top) + pair.bottom.prior(above[None]).log_prob(bottom[None])[0]


def joint_of_all(pair, x):
    """`log p(x, c)` for each of the 3^5 codes, `[3^5, B]`, one by one; the top's varies slowest."""
    found = []
    for c in itertools.product(range(K), repeat=5):
        top, bottom = torch.tensor(c[:1]).reshape(1, 1), torch.tensor(c[1:]).reshape(2, 2)
        above, below = pair.top.codebook.codes[0, top].expand(2, 2, 2), pair.bottom.codebook.codes[0, bottom]
        found.append(pair.likelihood(torch.cat([above, below], -1)).log_prob(x) + log_prior(pair, top, bottom))
    return torch.stack(found).detach()


def number(pair, x):
    """Of the guide's codes, in the order of `joint_of_all`."""
    codes = torch.cat([codes.flatten(1) for codes in pair.codes(x)], -1)
    return (codes * K ** torch.arange(4, -1, -1)).sum(-1)


@pytest.mark.parametrize("priors", ["uniform", "learned"])
def test_evidence_elbo_and_gap_are_those_of_all_codes(pair, x, priors, monkeypatch):
    pair = learned(pair) if priors == "learned" else pair
    joint = joint_of_all(pair, x)
    exact, elbo = joint.logsumexp(0), joint.gather(0, number(pair, x)[None])[0]
    torch.testing.assert_close(ppvae.log_evidence(pair, x, progress=False).estimate, exact)
    monkeypatch.setattr(code_search, "ELEMENTS_AT_ONCE", 7 * x.numel())  # in pieces of seven, the last smaller
    torch.testing.assert_close(pair.log_prob(x), exact)
    torch.testing.assert_close(pair.log_weights(x, 3).log_w, elbo.expand(3, -1))
    torch.testing.assert_close(pair.exact_elbo(x), elbo)
    gap = ppvae.gap(pair, x, "quick", **quiet).gap
    torch.testing.assert_close(gap.estimate, -joint.log_softmax(0).gather(0, number(pair, x)[None])[0])


def test_the_bottoms_codes_are_the_nearest_given_the_tops(pair, x):
    features = pair.encoder(x)
    h = pair.top.encoder(features)
    top = (h.unsqueeze(-2) - pair.top.codebook.codes[0]).square().sum(-1).argmin(-1)
    above = pair.top.codebook.codes[0, top].expand(5, 2, 2, 2)
    h = pair.bottom.encoder(torch.cat([above, features], -1))
    bottom = (h.unsqueeze(-2) - pair.bottom.codebook.codes[0]).square().sum(-1).argmin(-1)
    for found, expected in zip(pair.codes(x), (top, bottom), strict=True):
        assert torch.equal(found, expected)
    other = pair.bottom.encoder(torch.cat([above + 1, features], -1))
    assert (other - h).abs().max() > 1e-3
    z = pair.latents(x)
    assert torch.equal(z["bottom"][0], pair.bottom.codebook.codes[0, bottom])


def test_vectors_are_laid_over_maps_of_other_sizes():
    level = small().bottom
    level.shape = (5, 3)
    above = torch.arange(6.0).reshape(1, 3, 2, 1)
    expected = torch.tensor([[0.0, 0, 1], [0, 0, 1], [2, 2, 3], [2, 2, 3], [4, 4, 5]])
    assert torch.equal(level.laid_under(above)[0, ..., 0], expected)


def test_the_second_stage_gains_what_the_codes_cross_entropy_saves(pair, x):
    """`P log K - cross-entropy` of both levels, for each data point, whatever the priors."""
    after = learned(pair)
    codes = zip(*pair.codes(x), strict=True)
    cross_entropy = -torch.stack([log_prior(after, top, bottom) for top, bottom in codes])
    assert cross_entropy.std() > 0.1
    gained = ppvae.elbo(after, x, **quiet).estimate - ppvae.elbo(pair, x, **quiet).estimate
    torch.testing.assert_close(gained, (5 * math.log(K) - cross_entropy).detach())


@pytest.mark.slow(20)
def test_in_the_second_stage_the_priors_alone_learn_all_that_there_is():
    """Up to the entropy of the codes of the data, which no prior beats on these."""
    x = torch.rand(40, 1, 4, 4).round()
    pair = small(decay=0.5).init_from(x)
    after = pair.second_stage(*pair.pixel_priors(width=8, num_layers=2))
    frozen = [p.clone() for p in (*after.encoder.parameters(), *after.likelihood.parameters())]
    ppvae.fit(after, x, steps=600, batch_size=40, lr=0.03, schedule=lambda done: 1 - done, progress=False)
    assert all(map(torch.equal, frozen, (*after.encoder.parameters(), *after.likelihood.parameters())))
    assert torch.equal(number(after, x), number(pair, x))
    assert torch.equal(after.top.codebook.weight, pair.top.codebook.weight)
    share = torch.bincount(number(pair, x)) / 40
    entropy = torch.special.entr(share).sum()
    gained = (after.exact_elbo(x) - pair.exact_elbo(x)).mean()
    assert 0 <= 5 * math.log(K) - entropy - gained < 0.02


def test_draws_come_from_the_priors(pair, assert_mean):
    after = learned(pair)
    z = after.sample_joint(4000, observed=False)
    top = (z["top"].unsqueeze(-2) == after.top.codebook.codes[0]).all(-1).to(torch.float64)
    assert_mean(top.flatten(1), after.top.prior().log_prob(torch.arange(K).reshape(K, 1, 1)).exp().detach())
    first = (z["bottom"][:, 0, 0].unsqueeze(-2) == after.bottom.codebook.codes[0]).all(-1).to(torch.float64)
    shares = torch.zeros(K)
    for t, c in itertools.product(range(K), itertools.product(range(K), repeat=4)):
        probability = log_prior(after, torch.full((1, 1), t), torch.tensor(c).reshape(2, 2)).exp().detach()
        shares[c[0]] += probability
    assert_mean(first, shares)


@pytest.mark.parametrize("priors", ["uniform", "learned"])
def test_tempered_weights_have_the_mean_p(pair, x, priors, assert_mean):
    pair = learned(pair) if priors == "learned" else pair
    exact = joint_of_all(pair, x).logsumexp(0)
    with torch.no_grad():
        log_w = pair.proposal().log_weights(x, 2000).log_w
    assert_mean((log_w - exact).exp(), 1.0)


def test_the_search_changes_codes_of_both_levels(pair, x):
    best = pair.best_elbo(x)
    joint = joint_of_all(pair, x)
    assert (best <= joint.amax(0) + 1e-9).all()
    assert (best >= pair.exact_elbo(x)).all()
    report = ppvae.gap(pair, x, **quiet)
    torch.testing.assert_close(report.elbo_refined.estimate, best.detach())


@pytest.mark.parametrize("decay", [None, 0.9])
def test_training_raises_the_bound(decay):
    x = (torch.randn(200, 2) @ torch.randn(2, 16) > 0).to(torch.get_default_dtype()).unflatten(1, (1, 4, 4))
    pair = small(decay=decay).init_from(x)
    before = pair.exact_elbo(x).mean().item()
    ppvae.fit(pair, x, VectorQuantizedELBO(), epochs=30, batch_size=50, lr=0.01, progress=False)
    pair.eval()
    assert pair.exact_elbo(x).mean().item() > before + 1
    assert (pair.log_prob(x) >= pair.exact_elbo(x)).all()


def test_dead_codes_of_each_level_are_moved():
    pair, x = small(decay=0.9), torch.rand(30, 1, 4, 4).round()
    for level in (pair.top, pair.bottom):
        level.codebook.weight[0, 1] = 100.0
    dead = sum(int((used == 0).sum()) for used in pair.usage(x))
    assert dead >= 2
    assert pair.restart_dead_codes(x) >= 2
    assert [used.sum().item() for used in pair.usage(x)] == [30, 120]
    assert (torch.stack(pair.usage(x))[:, 0, 1] > 0).all()
