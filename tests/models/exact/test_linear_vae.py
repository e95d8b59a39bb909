"""The linear VAE against linear algebra and scikit-learn's probabilistic PCA."""

import logging

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import ppvae
from ppvae.inference.training import fitting
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


def rotated(guide: str) -> LinearVAE:
    """A fixed model whose W'W is far from diagonal, with the best guide of its family."""
    pair = LinearVAE(num_features=6, num_latents=3, guide=guide)
    pair.weight.data += 1.0  # columns that share a direction
    pair.log_sigma.data.fill_(-0.3)
    pair.mean.data.copy_(torch.randn(6))
    return pair.fit_guide()


def test_log_prob_is_the_gaussian_marginal():
    pair, x = rotated("diagonal"), torch.randn(10, 6)
    covariance = pair.weight @ pair.weight.T + (2 * pair.log_sigma).exp() * torch.eye(6)
    exact = torch.distributions.MultivariateNormal(pair.mean, covariance).log_prob(x)
    torch.testing.assert_close(pair.log_prob(x), exact)


@pytest.mark.parametrize("guide", ["exact", "full"])
def test_exact_guides_have_constant_weights(guide):
    pair, x = rotated(guide), torch.randn(10, 6)
    log_w = pair.log_weights(x, num_particles=20).log_w
    torch.testing.assert_close(log_w, pair.log_prob(x).expand(20, 10))


def test_best_diagonal_guide_has_the_closed_form_gap(assert_mean):
    pair, x = rotated("diagonal"), torch.randn(5, 6)
    gap = pair.log_prob(x) - pair.log_weights(x, num_particles=20_000).log_w
    assert pair.factorized_gap() > 0.1
    assert_mean(gap.detach(), pair.factorized_gap().detach())


@pytest.mark.parametrize("guide", ["diagonal", "full", "exact"])
def test_gap_of_any_guide_is_known(guide, assert_mean):
    pair, x = rotated(guide), torch.randn(5, 6)
    best = {"diagonal": pair.factorized_gap().item(), "full": 0.0, "exact": 0.0}[guide]
    torch.testing.assert_close(pair.exact_gap(x), torch.full((5,), best))
    if guide != "exact":
        pair.encoder.bias.data += 0.2
        pair.posterior_scale.data += 0.3
        measured = pair.log_prob(x) - pair.log_weights(x, num_particles=20_000).log_w
        assert_mean(measured.detach(), pair.exact_gap(x).detach())


def test_rotation_opens_the_gap_and_leaves_the_evidence():
    pair, x = rotated("diagonal"), torch.randn(5, 6)
    before = pair.log_prob(x)
    _, _, rotation = torch.linalg.svd(pair.weight)
    pair.weight.data = pair.weight.data @ rotation.T.detach()
    torch.testing.assert_close(pair.log_prob(x), before)
    assert pair.factorized_gap().abs() < 1e-12


def test_closed_form_fit_is_scikit_learns():
    x = torch.as_tensor(load_digits().data)
    x = x[:, x.std(0) > 0] + 0.1 * torch.randn(len(x), int((x.std(0) > 0).sum()))
    pair = LinearVAE(x.shape[1], num_latents=10).fit_closed_form(x)
    scaled = len(x) / (len(x) - 1)  # scikit-learn divides the covariance by N - 1, maximum likelihood by N
    peer = PCA(n_components=10, svd_solver="full").fit(x)
    torch.testing.assert_close(
        pair.weight @ pair.weight.T + (2 * pair.log_sigma).exp() * torch.eye(x.shape[1]),
        torch.as_tensor(peer.get_covariance()) / scaled,
    )
    assert pair.factorized_gap().abs() < 1e-10  # principal axes are orthogonal


def test_closed_form_fit_is_a_maximum():
    x = torch.randn(200, 6) @ torch.randn(6, 6)
    pair = LinearVAE(6, 2).fit_closed_form(x)
    pair.log_prob(x).mean().backward()
    for name in ("weight", "mean", "log_sigma"):
        assert getattr(pair, name).grad.abs().max() < 1e-8, name


def test_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="guide: found 'flow'"):
        LinearVAE(5, 2, guide="flow")
    with pytest.raises(ValueError, match="num_latents: found 5, expected 1 to 4"):
        LinearVAE(5, 5)
    with pytest.raises(ValueError, match="rank <= 2"):
        LinearVAE(5, 2).fit_closed_form(torch.randn(50, 1) @ torch.ones(1, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(8))
def test_what_rounding_leaves_is_no_variance(dtype, seed):
    """Of data in a plane, the least eigenvalues are rounding errors, of either sign."""
    torch.manual_seed(seed)
    plane = torch.randn(200, 2, dtype=dtype) @ torch.randn(2, 6, dtype=dtype) + 3
    pair = LinearVAE(6, 2).to(dtype)
    with pytest.raises(ValueError, match="rank <= 2"):
        pair.fit_closed_form(plane)
    pair.fit_closed_form(plane + 1e-3 * torch.randn(200, 6, dtype=dtype))
    assert pair.log_sigma.exp().item() == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("guide", ["diagonal", "full", "exact"])
def test_steps_are_recorded_whatever_the_guide(guide, monkeypatch, caplog):
    """No step looks at the data's values, as the methods that users call do."""
    monkeypatch.setattr(fitting, "RECORD_AFTER", 1)
    pair = LinearVAE(4, 2, guide)
    with caplog.at_level(logging.INFO, "ppvae"):
        fit = ppvae.fit(pair, torch.randn(20, 4), steps=6, progress=False)
    assert fit.steps == 6
    assert "uncompiled" not in caplog.text
