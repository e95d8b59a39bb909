"""Pareto k-hat: ArviZ's on the same weights, the true k where that is known, and what ties and short tails give."""

import math

import pytest
import torch

from ppvae.inference.evidence.pareto import pareto_khat, smoothed, tail_size
from ppvae.views.arviz_export import import_arviz


def khat(log_w):
    return pareto_khat(log_w.topk(min(len(log_w), tail_size(len(log_w)) + 1), dim=0).values)


def arviz_smoothed(log_w):
    """ArviZ 0.x takes log weights; 1.x takes log likelihoods, whose negatives are the weights."""
    arviz = import_arviz()
    if arviz.__version__.startswith("0."):
        log_weights, khat = arviz.psislw(log_w.T.numpy().copy())
    else:
        from arviz_stats.base import array_stats

        log_weights, khat = array_stats.psislw(-log_w.T.numpy())
    return torch.as_tensor(log_weights).T, torch.as_tensor(khat)


def arviz_khat(log_w):
    return arviz_smoothed(log_w)[1]


@pytest.mark.parametrize("num_particles", [100, 900, 2500])
def test_equals_arviz(num_particles):
    log_w = torch.randn(num_particles, 20, dtype=torch.float64) * torch.linspace(0.01, 6, 20) - 90.0
    torch.testing.assert_close(khat(log_w), arviz_khat(log_w), atol=1e-6, rtol=0)
    for ours, theirs in zip(smoothed(log_w), arviz_smoothed(log_w), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "log_w",
    [
        torch.linspace(0, 9, 26).square(),  # a tail of six
        torch.linspace(0, 3, 1000).square(),  # 3 sqrt(K) is no whole number
        torch.linspace(0, 3, 1000).square().round(decimals=1),  # ties at the cutoff shorten the tail
        torch.linspace(0, 50, 1000).square(),  # all but the largest underflow
    ],
)
def test_equals_arviz_at_the_edges(log_w):
    if not import_arviz().__version__.startswith("0."):
        pytest.skip("ArviZ 1.x rounds the tail's size down, and keeps ties")
    log_w = log_w.double().unsqueeze(-1)
    torch.testing.assert_close(khat(log_w), arviz_khat(log_w), atol=1e-6, rtol=0)
    ours, theirs = (
        function(log_w)[0].sort(0).values for function in (smoothed, arviz_smoothed)
    )  # ties are in any order
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.8])
def test_gaussian_with_too_small_a_variance_has_k_one_minus_the_ratio(ratio, assert_mean):
    """In two dimensions `log w = (1 - r) chi^2_2 / 2`: exactly a Pareto distribution. (In one its tail has a slowly
    varying factor, and k-hat comes out low.) The prior's ten pseudo-observations of 1/2 are taken out again."""
    z = torch.randn(4000, 100, 2, dtype=torch.float64) * ratio**0.5
    log_w = (z.square() * (1 / ratio - 1) / 2).sum(-1)
    size = tail_size(len(log_w))
    assert_mean((khat(log_w) * (size + 10) - 5) / size, 1 - ratio)


def test_adding_a_constant_changes_nothing():
    log_w = torch.randn(500, 3, dtype=torch.float64)
    torch.testing.assert_close(khat(log_w + 1000.0), khat(log_w))


@pytest.mark.parametrize("rounding", [0.0, 1e-5])
def test_equal_weights_have_no_tail(rounding):
    log_w = -90.0 + rounding * torch.randn(1000, 2, dtype=torch.float64)
    assert khat(log_w).tolist() == [-math.inf] * 2
    torch.testing.assert_close(smoothed(log_w)[0], log_w - log_w.logsumexp(0))


def test_few_particles_are_too_few_to_tell():
    assert khat(torch.randn(20, 2, dtype=torch.float64)).tolist() == [math.inf] * 2


def test_a_rare_large_weight_is_not_trusted():
    log_w = torch.zeros(1000, 1, dtype=torch.float64)
    log_w[:3] = 5.0
    assert khat(log_w).item() == math.inf


def test_tails_of_several_sizes_are_smoothed_each_for_itself():
    """Ties at one column's cutoff, a tail too short in another, equal weights in a third."""
    log_w = torch.randn(100, 4, dtype=torch.float64)
    log_w[:, 1] = log_w[:, 1].round(decimals=1)
    log_w[:, 2] = -1000.0
    log_w[:3, 2] = 0.0
    log_w[:, 3] = 1.0
    together, found = smoothed(log_w)
    for column in range(4):
        alone, one = smoothed(log_w[:, [column]])
        torch.testing.assert_close(together[:, [column]], alone)
        torch.testing.assert_close(found[[column]], one)
    torch.testing.assert_close(together.logsumexp(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(together[:, 2:], log_w[:, 2:] - log_w[:, 2:].logsumexp(0))


@pytest.mark.parametrize("num_particles", [1, 2, 7])
def test_few_weights_are_only_normalized(num_particles):
    log_w = torch.randn(num_particles, 3, dtype=torch.float64)
    torch.testing.assert_close(smoothed(log_w)[0], log_w.log_softmax(0))
