"""Pairs from two functions, small functions to make them of, and how refusals are held against what they must say."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK

from ppvae import ContractError, Pair


class Functions(Pair):
    """A pair from two functions, as they are."""

    def __init__(self, model, guide=lambda *args, **kwargs: None):
        super().__init__()
        self.functions = model, guide

    def model(self, *args, **kwargs):
        return self.functions[0](*args, **kwargs)

    def guide(self, *args, **kwargs):
        return self.functions[1](*args, **kwargs)


def normal(value, loc, scale):
    """log N(value; loc, scale^2), written out."""
    return -0.5 * ((value - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def refusal(pair, x):
    """The message with which the check refuses a pair; no handler is left on Pyro's stack."""
    with pytest.raises(ContractError) as caught:
        pair.check(x)
    assert _PYRO_STACK == []
    return str(caught.value)


def assert_says(message, *words):
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"


def scalar_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def scalar_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def vector_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.flatten(1), 1.0).to_event(1))


def vector_model(likelihood):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x[0].numel()), 1.0).to_event(1))
            pyro.sample("x", likelihood(z, x), obs=x)

    return model
