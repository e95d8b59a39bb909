"""Objectives, pairs, records and fits may be pickled and copied: what comes out gives the same, and is another."""

import copy
import pickle

import numpy as np
import pyro
import pytest
import torch
from support.objectives import OBJECTIVES
from support.zoo import ZOO

import ppvae
from ppvae.models import LinearVAE

WAYS = {"pickled": lambda thing: pickle.loads(pickle.dumps(thing)), "copied": copy.deepcopy}
LOCAL = "pyro functions"
"""The pair of two functions inside a function, which Python pickles by no means, and whose modules it does not copy."""


@pytest.fixture(params=WAYS)
def again(request):
    return WAYS[request.param]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name, again):
    objective, (pair, x) = OBJECTIVES[name], ZOO["linear"].make()
    with torch.no_grad():
        for _ in range(2):  # before and after a call
            assert again(objective) == objective
            assert repr(again(objective)) == repr(objective)
            if name != "SingleTermELBO":
                objective(pair, x)


def gradients(pair, x):
    pyro.set_rng_seed(1)
    total = pair.log_weights(x, 2).log_w.sum()
    found = torch.autograd.grad(total, list(pair.parameters()), allow_unused=True, materialize_grads=True)
    return total, torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("name", [name for name in ZOO if name != LOCAL])
def test_pairs(name, again):
    pair, x = ZOO[name].make()
    pair.check(x)
    pair.eval()
    expected = gradients(pair, x)
    other = again(pair)
    assert all(torch.equal(a, b) for a, b in zip(gradients(other, x), expected, strict=True))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(gradients(pair, x), expected, strict=True))


def test_fits_and_records(again):
    pair, x = LinearVAE(4, 2), torch.randn(20, 4)
    fit = ppvae.fit(pair, x, ppvae.ELBO(2), steps=3, progress=False)
    other = again(fit)
    assert repr(other) == repr(fit)
    np.testing.assert_array_equal(other.history["bound"], fit.history["bound"])
    assert all(torch.equal(a, b) for a, b in zip(other.pair.parameters(), pair.parameters(), strict=True))
    quiet = {"seed": 0, "progress": False}
    records = [
        ppvae.elbo(pair, x, **quiet),
        ppvae.log_evidence(pair, x, "iwae", 50, **quiet),
        ppvae.elbo_terms(pair, x, 10, **quiet),
        ppvae.bound_curve(pair, x, [1, 4], **quiet),
        ppvae.gap(pair, x, "quick", **quiet),
        ppvae.Effort(),
        ppvae.AIS(),
    ]
    for record in records:
        assert repr(again(record)) == repr(record)
    assert torch.equal(again(records[0]).estimate, records[0].estimate)
