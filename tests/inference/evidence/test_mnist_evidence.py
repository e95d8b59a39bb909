"""Evidence on a real model: a VAE of 50 latents trained on MNIST, from both sides."""

import os

import pytest
import torch

import ppvae
from ppvae.models import VAE

pytestmark = [
    pytest.mark.slow(120),
    pytest.mark.skipif(not os.environ.get("PPVAE_DATA"), reason="PPVAE_DATA is not set: there is no MNIST to read"),
]


@pytest.fixture(scope="module")
def trained():
    """The pair, and 30 test digits."""
    digits = ppvae.datasets.load("mnist", binarize="dynamic")
    torch.manual_seed(0)
    pair = VAE.mlp(784, 50, hidden=[200, 200]).init_from(digits.train)
    ppvae.fit(pair, digits.train, epochs=10, transform=digits.transform, seed=0, progress=False)
    return pair, digits.test[:30]


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_both_sides_meet_within_a_nat(trained, start):
    """Upper minus lower on simulated digits, by 16 chains and 1,000 temperatures."""
    pair, x = trained
    settings = ppvae.AIS(num_chains=16, num_temperatures=1000, start=start)
    certificate = ppvae.log_evidence(pair, x, "bdmc", annealing=settings, seed=0, progress=False).certificate
    width = certificate.width.mean()
    assert -3 * width.std_error < width.estimate < 1 - 3 * width.std_error


def test_chains_from_the_encoder_reach_what_importance_weights_do(trained):
    pair, x = trained
    iwae = ppvae.log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    settings = ppvae.AIS(num_chains=16, num_temperatures=1000)
    chains = ppvae.log_evidence(pair, x, "ais", annealing=settings, seed=1, progress=False)
    gain = chains.mean().estimate - iwae.mean().estimate
    assert gain > -3 * (chains.mean().monte_carlo_error ** 2 + iwae.mean().monte_carlo_error ** 2) ** 0.5
