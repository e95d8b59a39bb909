"""Closed forms take data of types that theirs holds, with the same result, and refuse all others."""

import pytest
import torch
from pyro.distributions.transforms import spline_coupling

from ppvae.models import Flow, LinearGaussianChain, LinearVAE, StandardNormal

PAIRS = {
    "linear": lambda: LinearVAE(num_features=4, num_latents=2),
    "diagonal": lambda: LinearVAE(num_features=4, num_latents=2, guide="diagonal"),
    "chain": lambda: LinearGaussianChain(4, [2, 1]),
    "flow": lambda: Flow(StandardNormal(4), [spline_coupling(4)]),
}
METHODS = ("log_prob", "exact_elbo", "exact_gap", "exact_elbo_terms")


def closed_forms(pair):
    return [getattr(pair, name) for name in METHODS if hasattr(pair, name)]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16, torch.bfloat16])
def test_narrower_ones_give_the_same(name, dtype):
    torch.manual_seed(0)
    pair, x = PAIRS[name](), torch.tensor([[0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 0.0, 2.0]])
    for method in closed_forms(pair):
        torch.testing.assert_close(method(x.to(dtype)), method(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_wider_ones_are_refused(name):
    pair = PAIRS[name]()
    for method in closed_forms(pair):
        with pytest.raises(TypeError, match=r"x: found dtype torch.float64, expected the pair.s torch.float32"):
            method(torch.zeros(2, 4, dtype=torch.float64))
