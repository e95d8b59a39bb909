"""Invalid parameters and values of distributions: the site and the first of them are told, and no tensor is printed."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import ContractError, Pair
from ppvae.models import VAE
from ppvae.refusals import SupportError
from ppvae.simulation import simulate

LONGEST = 300


class Odd(Pair):
    """The guide's scale is -2 where x is above 50."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, self.scale), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1 - 3.0 * (x > 50)))


@pytest.fixture
def pair():
    pair = Odd()
    pair.check(torch.randn(50))
    return pair


@pytest.mark.parametrize(
    "call",
    [
        lambda p, x: p.log_weights(x, 3),
        lambda p, x: p.latents(x, 3),
        lambda p, x: ppvae.ELBO()(p, x),
        lambda p, x: ppvae.fit(p, x, steps=2, progress=False),
    ],
)
def test_a_parameter_is_told(call, pair):
    x = torch.randn(50)
    x[30] = 99.0
    found = r"guide, before its first site: found scale -2 at index \[30\] of shape \[50\] \(1 of 50 are invalid\) of"
    with pytest.raises(ContractError, match=found + " Normal, expected GreaterThan.*; are data") as refusal:
        call(pair, x)
    assert len(str(refusal.value)) < LONGEST
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("draw", [lambda p: p.sample(5), lambda p: simulate(p, torch.zeros(5))])
def test_a_parameter_of_a_model_that_is_drawn_from_is_told(draw, pair):
    pair.scale.data.fill_(float("nan"))
    with pytest.raises(ContractError, match=r"model, after site 'z': found scale nan at index .* of Normal, expected"):
        draw(pair)


def test_data_that_are_missing_are_told(pair):
    x = torch.randn(50)
    x[3] = float("nan")
    with pytest.raises(ContractError, match=r"guide, before its first site: found loc nan at index \[3\]"):
        pair.log_weights(x)


def test_a_value_outside_the_support_is_told():
    pair = VAE.mlp(4, 2, [5])
    pair.check(torch.zeros(50, 4))
    x = torch.zeros(50, 4)
    x[20, 1] = 0.25
    found = r"site 'x': found 0.25 at index .*20, 1\] .* expected a value inside the support of Bernoulli.*; rescale"
    with pytest.raises(SupportError, match=found) as refusal:
        pair.log_weights(x, 2)
    assert len(str(refusal.value)) < LONGEST


class Lengths(Pair):
    """`z ~ N(0, 1)`, `x ~ Gamma(exp z, 1)`, where it is there."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))

    def model(self, x, there):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Gamma(z.exp(), 1.0).mask(there), obs=x)

    def guide(self, x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), self.scale))


ASKED = {
    "log_weights": lambda pair, data: pair.log_weights(data, 2).log_w.sum().detach(),
    "fit": lambda pair, data: ppvae.fit(pair, data, epochs=1, batch_size=20, progress=False).history["bound"][-1],
    "elbo": lambda pair, data: ppvae.elbo(pair, data, progress=False).estimate.mean(),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("filler", [-1.0, math.nan])
def test_what_fills_masked_data_is_told_to_lie_in_the_support_and_may_be_anything_there(asked, filler):
    x, there = torch.rand(60) + 0.1, torch.arange(60) % 3 > 0
    with pytest.raises(ValueError, match=r"inside (it|the support of the likelihood) where (a mask|they are masked)"):
        ASKED[asked](Lengths(), (torch.where(there, x, filler), there))
    found = []
    for remedy in (0.3, 7.0):
        torch.manual_seed(0)
        found.append(float(ASKED[asked](Lengths(), (torch.where(there, x, remedy), there))))
    assert math.isfinite(found[0])
    assert found[0] == found[1]
