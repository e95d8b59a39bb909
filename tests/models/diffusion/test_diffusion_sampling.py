"""Samples of the Gaussian diffusion, of which the covariance is known at each step, and DDIM is one matrix."""

from itertools import pairwise

import pytest
import torch
from support.diffusion_oracle import coefficients, covariance, marginal, optimal

from ppvae.models import DiffusionVAE, MLPDenoiser, sample_ddim

pytestmark = pytest.mark.usefixtures("float64")


def outer(x):
    return (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1)


@pytest.mark.parametrize("variance", ["posterior", "upper"])
def test_ancestral_samples_have_the_chains_covariance(variance, assert_mean):
    pair = optimal(5, variance=variance)
    x = pair.sample(40_000)
    assert_mean(x, torch.zeros(3))
    assert_mean(outer(x), marginal(pair).covariance_matrix.flatten().detach(), k=4.5)


@torch.no_grad()
def ddim_covariance(pair, steps, eta):
    """Of DDIM's samples at steps of the chain (T - 1 ... 0), in Song et al.'s terms; with eta = 0 also the matrix."""
    gamma, identity = pair.levels()[steps], torch.eye(3)
    C, M = identity, identity
    for gamma_t, gamma_s in pairwise(gamma):
        alpha_s, alpha_t, var_s, var_t, added = coefficients(gamma_s, gamma_t)
        fresh = eta**2 * var_s / var_t * added
        G = pair.denoiser.matrix(gamma_t)
        step = alpha_s * G + (var_s - fresh).sqrt() * (identity - alpha_t * G) / var_t.sqrt()
        C, M = step @ C @ step.T + fresh * identity, step @ M
    G = pair.denoiser.matrix(gamma[-1])
    return G @ C @ G.T, G @ M


@pytest.mark.parametrize("parameterization", ["x", "eps", "v"])
def test_deterministic_sampling_is_the_known_matrix_of_the_noise(parameterization):
    pair = optimal(20, parameterization=parameterization)
    torch.manual_seed(3)
    noise = torch.randn(7, 3)
    torch.manual_seed(3)
    x = sample_ddim(pair, 7, num_steps=4)
    _, matrix = ddim_covariance(pair, [19, 13, 6, 0], eta=0)
    torch.testing.assert_close(x, noise @ matrix.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_in_fewer_steps_have_their_covariance(eta, assert_mean):
    pair = optimal(20)
    expected, _ = ddim_covariance(pair, [19, 13, 6, 0], eta)
    assert_mean(outer(sample_ddim(pair, 40_000, num_steps=4, eta=eta)), expected.flatten(), k=4.5)


def test_eta_one_in_all_steps_is_ancestral_sampling():
    """Their covariances differ by the noise of the last step alone, which ancestral sampling adds."""
    pair = optimal(6, variance="posterior")
    without_noise = marginal(pair).covariance_matrix - pair.likelihood.sigma(None) ** 2 * torch.eye(3)
    torch.testing.assert_close(ddim_covariance(pair, [5, 4, 3, 2, 1, 0], eta=1)[0], without_noise.detach())


def test_more_steps_come_closer_to_the_data():
    """By a first-order rate, for the deterministic samples: twice the steps, half the error."""
    pair = optimal(4000)
    errors = []
    for num_steps in (20, 40, 80, 160):
        steps = torch.linspace(3999, 0, num_steps).round().long()
        errors.append((ddim_covariance(pair, steps, eta=0)[0] - covariance()).norm())
    ratios = torch.stack(errors)[:-1] / torch.stack(errors)[1:]
    assert ((ratios - 2).abs() < 0.3).all(), ratios


def test_refusals():
    pair = DiffusionVAE(MLPDenoiser(2, [4]), [2], 5)
    with pytest.raises(ValueError, match="num_steps: found 6, expected 2 to 5"):
        sample_ddim(pair, 3, num_steps=6)
    with pytest.raises(ValueError, match="num_steps: found 1, expected 2 to 5"):
        sample_ddim(pair, 3, num_steps=1)
    with pytest.raises(ValueError, match=r"eta: found 1\.5, expected 0 to 1"):
        sample_ddim(pair, 3, eta=1.5)


def test_samples_are_drawn_in_evaluation_mode():
    """Dropout of a denoiser is for training; the pair stays in the mode that it is in."""
    pair = DiffusionVAE(MLPDenoiser(2, [8]), [2], 5)
    pair.denoiser.network.append(torch.nn.Dropout(0.5))
    drawn = []
    for training in (True, False):
        pair.train(training)
        torch.manual_seed(1)
        drawn.append(sample_ddim(pair, 7))
        assert pair.training is training
    torch.testing.assert_close(*drawn)
