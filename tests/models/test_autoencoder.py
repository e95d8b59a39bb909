"""The denoising autoencoder against the linear one of Gaussian data, whose objective is known."""

import pytest
import torch
from support.diffusion_oracle import OptimalDenoiser, covariance
from torch import nn

import ppvae
from ppvae import EvidenceUndefined
from ppvae.models import DenoisingAutoencoder, Gaussian
from ppvae.models.diffusion.noising import noise, signal

pytestmark = pytest.mark.usefixtures("float64")

SPREAD = 0.8


def noisy(x):
    return x + SPREAD * torch.randn_like(x)


def linear(matrix):
    """x~ -> A x~, by least squares."""
    encoder = nn.Linear(3, 3, bias=False)
    encoder.weight.data = matrix
    return DenoisingAutoencoder(encoder, Gaussian(nn.Identity(), sigma=0.5), noisy)


def best():
    S = covariance()
    return S @ torch.linalg.inv(S + SPREAD**2 * torch.eye(3))


@pytest.mark.parametrize("matrix", [torch.eye(3, dtype=torch.float64), best()], ids=["identity", "best"])
def test_gradient_is_that_of_denoising(matrix, assert_mean):
    """`(A (S + s^2 I) - S) / sigma^2`, which is zero at the posterior mean of x given x~."""
    S, pair = covariance(), linear(matrix)
    x = torch.distributions.MultivariateNormal(torch.zeros(3), S).sample((400, 50))
    gradients = [torch.autograd.grad(ppvae.ELBO()(pair, each)[1], [pair.encoder.weight])[0] for each in x]
    expected = (matrix @ (S + SPREAD**2 * torch.eye(3)) - S) / 0.5**2
    assert_mean(-torch.stack(gradients), expected)


def test_a_diffusions_denoiser_is_one_at_each_level():
    """Scaled to unit signal, x_t has noise of variance `1 / SNR_t`."""
    gamma = 2 * torch.tensor(SPREAD).log()
    torch.testing.assert_close(noise(gamma) / signal(gamma), torch.tensor(SPREAD))
    torch.testing.assert_close(OptimalDenoiser(covariance()).matrix(gamma).detach() * signal(gamma), best())


def test_data_are_left_as_they_are_in_evaluation():
    """Reconstructions are made there; in training the code is that of corrupted data."""
    pair, x = linear(best()).eval(), torch.randn(5, 3)
    clean = pair.log_weights(x).log_w
    for training in (False, True):
        torch.testing.assert_close(pair.train(training).reconstruct(x), x @ best().T)
    assert not torch.allclose(pair.log_weights(x).log_w, clean, atol=0.1)


def test_it_has_no_evidence_and_trains():
    pair, x = linear(torch.eye(3)), torch.randn(100, 3)
    with pytest.raises(EvidenceUndefined, match="an autoencoder's code is a deterministic function"):
        ppvae.gap(pair, x)
    before = pair.encoder.weight.detach().clone()
    ppvae.fit(pair, x, epochs=30, lr=0.02, progress=False)
    shrunk = torch.eye(3) / (1 + SPREAD**2)
    assert (pair.encoder.weight - shrunk).norm() < 0.3 * (before - shrunk).norm()
