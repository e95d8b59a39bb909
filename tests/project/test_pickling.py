"""Objectives, pairs, records and fits may be pickled and copied: what comes out gives the same, and is another."""

import copy
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.objectives import OBJECTIVES
from support.zoo import ZOO

import ppvae
from ppvae.models import LinearVAE

WAYS = {"pickled": lambda thing: pickle.loads(pickle.dumps(thing)), "copied": copy.deepcopy}
LOCAL = "pyro functions"
"""The pair of two functions inside a function, which Python does not pickle."""

OF_OTHER_PAIRS = (
    "SingleTermELBO",
    "VectorQuantizedELBO",
    "SemiSupervisedELBO",
    "AdversarialLoss",
    "FactorVAE",
    "FeatureELBO",
)


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
            if name not in OF_OTHER_PAIRS:
                objective(pair, x)


def gradients(pair, x):
    pyro.set_rng_seed(1)
    total = pair.log_weights(x, 2).log_w.sum()
    found = torch.autograd.grad(total, list(pair.parameters()), allow_unused=True, materialize_grads=True)
    return total, torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("name", ZOO)
def test_pairs(name):
    pair, x = ZOO[name].make()
    for way, again in WAYS.items():
        if (name, way) != (LOCAL, "pickled"):
            assert_another_alike(pair, x, again)


NETWORK = torch.nn.Linear(3, 2)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ NETWORK.weight, pyro.param("scale", torch.tensor(1.0))).to_event(1), obs=x)


def guide(x):
    pyro.module("network", NETWORK)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(NETWORK(x), 0.5).to_event(1))


def test_pairs_of_functions_with_modules_of_their_file(again):
    """The functions are shared, their modules are not."""
    x = torch.randn(4, 3)
    assert_another_alike(ppvae.Pair.of(model, guide, example=x), x, again)


def test_training_a_copy_leaves_the_original_and_its_modules_alone(again):
    x = torch.randn(20, 3)
    pair = ppvae.Pair.of(model, guide, example=x)
    other, before = again(pair), [p.detach().clone() for p in NETWORK.parameters()]
    ppvae.fit(other, x, steps=5, lr=0.1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(NETWORK.parameters(), before, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(other.parameters(), pair.parameters(), strict=True))
    assert ppvae.elbo(other, x, seed=0, progress=False).mean() != ppvae.elbo(pair, x, seed=0, progress=False).mean()


def assert_another_alike(pair, x, again):
    pair.check_once(x)
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
