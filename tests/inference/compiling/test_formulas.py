"""The formulas that compiled programs use in place of torch's: their accuracy, and where they do not apply."""

import math

import pytest
import torch

from ppvae.inference.compiling import formulas as fast_math

GRID = torch.cat([torch.linspace(-30, 30, 1_000_000), torch.logspace(-30, 1.5, 100_000)])


def relative_error(found, exact):
    return ((found.double() - exact) / exact).abs().max()


def test_tanh_to_rounding():
    assert relative_error(fast_math.tanh(GRID[GRID != 0]), GRID[GRID != 0].double().tanh()) < 4e-7
    assert fast_math.tanh(torch.zeros(1)) == 0
    edges = torch.tensor([math.inf, 1e30, 10.0])
    torch.testing.assert_close(fast_math.tanh(torch.cat([edges, -edges])), torch.tensor([1.0] * 3 + [-1.0] * 3))
    assert fast_math.tanh(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize("x", [0.0, 1.0])
def test_cross_entropy_to_rounding(x):
    logits = torch.cat([GRID, -GRID])
    wide = logits.double()
    exact = wide.clamp(min=0) - x * wide + (-wide.abs()).exp().log1p()
    found = fast_math.binary_cross_entropy_with_logits(logits, torch.full_like(logits, x), reduction=0)
    spacing = torch.finfo(torch.float32).eps
    error = ((found - exact) / exact).abs()
    assert (error < spacing * (3 + logits.abs())).all()  # a logit's own rounding moves the result by |l| eps / 2


def test_bias_of_a_product():
    bias, a, b = torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)
    torch.testing.assert_close(fast_math.addmm(bias, a, b), torch.addmm(bias, a, b))


def test_other_types_and_options_are_left_to_torch():
    x = torch.zeros(2)
    assert fast_math.tanh(x.double()) is NotImplemented
    assert fast_math.binary_cross_entropy_with_logits(x.double(), x, reduction=0) is NotImplemented
    assert fast_math.binary_cross_entropy_with_logits(x, x, weight=x, reduction=0) is NotImplemented
    assert fast_math.binary_cross_entropy_with_logits(x, x, reduction=1) is NotImplemented
    assert fast_math.addmm(x, x, x, beta=2) is NotImplemented
