"""Data that differ by less than the pair's precision holds are refused: rounded, they would be other data."""

import numpy as np
import pytest
import torch

import ppvae
from ppvae.models import LinearVAE

SECONDS = 1.7e9 + torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def about(x):
    """A linear VAE whose mean is that of the data."""
    pair = LinearVAE(3, 2)
    with torch.no_grad():
        pair.mean.copy_(x.double().mean(0))
    return pair


@pytest.mark.parametrize(
    "x",
    [SECONDS, SECONDS.numpy(), SECONDS.round().long(), 1e-50 * (SECONDS - 1.7e9)],
    ids=["tensor", "array", "whole", "tiny"],
)
def test_data_whose_differences_the_pair_cannot_hold_are_refused(x):
    """Rounded, all would be nearly the same, and as likely as the mean; in double precision they are what they are."""
    for call in (ppvae.log_evidence, ppvae.elbo, ppvae.Pair.log_weights, ppvae.Pair.encode):
        with pytest.raises(
            ValueError, match=r"data\[0\]: found numbers near .* at index \[0\] .* torch.float32 keeps too"
        ):
            call(about(torch.as_tensor(SECONDS)), x)
    with pytest.raises(ValueError, match="subtract their mean"):
        ppvae.fit(about(torch.as_tensor(SECONDS)), x, steps=1, progress=False)
    if isinstance(x, np.ndarray):
        with pytest.raises(ValueError, match=r"x: found numbers near .* keeps too little"):
            about(torch.as_tensor(SECONDS)).log_prob(x)
    pair = about(torch.as_tensor(x)).double()
    exact = pair.marginal().log_prob(torch.as_tensor(x).double())
    torch.testing.assert_close(ppvae.log_evidence(pair, x, progress=False).estimate, exact.detach())


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(20, 3, dtype=torch.float64) + 1000,
        torch.full((20, 3), 0.1, dtype=torch.float64) + 1e-17 * torch.arange(20)[:, None],
        torch.full((20, 3), 1 / 3, dtype=torch.float64),
        SECONDS[:1],
        SECONDS.float(),
    ],
    ids=["far", "constant, but for rounding", "constant", "one", "of the pair's precision"],
)
def test_data_that_lose_little_or_nothing_more_are_taken(x):
    assert LinearVAE(3, 2).log_weights(x).log_w.shape == (1, len(x))
