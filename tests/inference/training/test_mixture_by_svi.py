"""A mixture trained by gradients, its component enumerated, gets as far as EM does from the same start."""

import copy

import pytest
import torch

import ppvae
from ppvae.models import GaussianMixture


@pytest.mark.slow(20)
def test_svi_reaches_ems_likelihood_on_the_digits():
    digits = ppvae.datasets.load("digits", dequantize=True)
    x = digits.transform(digits.train).double()
    by_em = GaussianMixture(num_components=10, num_features=64, covariance="diagonal").double()
    ppvae.fit_em(by_em, x, max_iterations=5)
    by_svi = copy.deepcopy(by_em)
    ppvae.fit_em(by_em, x, init="current", max_iterations=1000, tolerance=1e-9)
    ppvae.fit(
        by_svi,
        x,
        ppvae.EnumeratedELBO(),
        epochs=300,
        batch_size=len(x),
        lr=0.05,
        schedule=lambda done: (1 - done) ** 2,
        progress=False,
    )
    with torch.no_grad():
        assert by_svi.log_prob(x).mean() > by_em.log_prob(x).mean() - 0.01
