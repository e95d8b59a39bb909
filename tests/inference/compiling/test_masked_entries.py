"""Assignments between entries of one mask compile, though their number differs from batch to batch."""

import pyro.distributions as dist
import pytest
import torch
from support.compiled_runs import assert_same, run_as_traced
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae import ELBO
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.compiling.masked_entries import without_masked_shapes
from ppvae.models import VAE, Flow, LinearVAE, SplineFlow, StandardNormal


class Leaky(LinearVAE):
    """Takes a slope for negative features, and none beyond 1, by assignments to masked entries."""

    def __init__(self):
        super().__init__(4, 2)
        self.slope = nn.Parameter(torch.tensor([0.5, 0.6, 0.7, 0.8]))

    def guide(self, x):
        low, features = x < 0, x.clone()
        features[low] = (self.slope * x)[low]
        features[features > 1] = 1.0
        super().guide(features)


def spline_posterior():
    """With draws on both sides of the splines' bound."""
    vae = VAE.mlp(4, 2, [5], "gaussian")
    vae.posterior = SplineFlow(nn.Linear(4, 4), 2, num_couplings=2, num_hidden=4, num_bins=3, bound=0.7)
    return vae


PAIRS = {
    "assigned": Leaky,
    "spline posterior": spline_posterior,
    "Pyro's splines": lambda: Flow(
        StandardNormal(4), [dist.transforms.spline_coupling(4, hidden_dims=[5], count_bins=3, bound=1.0)]
    ),
}


@pytest.mark.slow(6)
@pytest.mark.parametrize("name", PAIRS)
def test_training_as_traced_is_the_same(name, caplog, monkeypatch):
    run_as_traced(monkeypatch)
    assert_same(PAIRS[name], ELBO(), caplog)


@pytest.mark.slow(10)
def test_training_compiled_is_the_same(caplog):
    assert_same(Leaky, ELBO(), caplog)


def traced(function, *args):
    graph = make_fx(function)(*args)
    without_masked_shapes(graph)
    return graph


def exchange(a, b, mask):
    kept = a[mask]
    a[mask] = b[mask]
    b[mask] = kept
    return a - b


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_graph_is_right_for_other_masks(accumulate):
    def function(a, b):
        mask = a > 0
        return a.clone().index_put_((mask,), b[mask], accumulate), a.index_put((mask,), b[mask], accumulate)

    first, *others = torch.randn(4, 2, 30)
    for a, b in (first, *others, torch.ones(2, 30), -torch.ones(2, 30)):
        for found, expected in zip(traced(function, *first)(a, b), function(a, b), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: b[a > 0].sum(),
        lambda a, b: a.index_put((a > 0,), 2 * b[a > 0]),
        lambda a, b: a.index_put((a > 0,), b[b > 0]),
        lambda a, b: torch.nonzero(a),
        lambda a, b: exchange(a.clone(), b.clone(), a > 0),
    ],
    ids=["a sum", "a multiple", "another mask", "indices", "an exchange"],
)
def test_what_else_depends_on_a_mask_is_refused(function):
    a = torch.randn(30)
    with pytest.raises(CannotCompileError, match="found a shape that depends on values"):
        traced(function, a, a.flip(0) * 0 + a)
