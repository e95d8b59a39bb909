"""Modules that plain functions use, wherever they refer to them: learned if announced, evaluated in any case."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import Pair

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def model(net, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)


def quiet_guide(net, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))


def guide(net, x):
    quiet_guide(pyro.module("net", net), x)


class Called:
    """A callable object that holds its network."""

    def __init__(self, net, function):
        self.net, self.function = net, function

    def __call__(self, x):
        self.function(self.net, x)


class Slotted:
    """One without a dict."""

    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        guide(self.net, x)


class Holder:
    """An object that a closure refers to."""

    def __init__(self, held):
        self.held = held


def through_holder(net):
    holder = Holder(Holder({"nets": [net]}))
    return lambda x: guide(holder.held.held["nets"][0], x)


GUIDES = {
    "partial": lambda net: partial(guide, net),
    "partial_by_name": lambda net: partial(guide, net=net),
    "partial_of_a_function": lambda net: partial(lambda function, x: function(x), partial(guide, net)),
    "callable": lambda net: Called(net, guide),
    "slots": Slotted,
    "method": lambda net: Called(net, guide).__call__,
    "closure": lambda net: lambda x: guide(net, x),
    "objects_and_containers": through_holder,
}


def by_name(function):
    """Lets a guide take its network by name."""
    return lambda x: function(x=x)


def made(name):
    net = network()
    own = GUIDES[name](net)
    return Pair.of(partial(model, None), by_name(own) if name == "partial_by_name" else own, example=X), net


def modes_of(module):
    """The list to which a module adds its mode whenever it is called."""
    seen = []
    module.register_forward_hook(lambda module, *_: seen.append(module.training))
    return seen


@pytest.mark.parametrize("name", GUIDES)
def test_announced_modules_are_learned_and_evaluated(name):
    pair, net = made(name)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in net.parameters()}
    seen = modes_of(net[1])
    first, second = (ppvae.elbo(pair, X, 3, seed=0, progress=False).estimate for _ in range(2))
    assert not any(seen)
    assert torch.equal(first, second)
    assert net[1].training
    before = net[0].weight.clone()
    ppvae.fit(pair, X, steps=2, progress=False)
    assert any(seen)
    assert not torch.equal(net[0].weight, before)


def frozen():
    net = network()
    return partial(quiet_guide, net), [net]


def dropout_alone():
    net, drop = network()[:1].append(nn.Linear(8, 1)), nn.Dropout(0.5)
    return (lambda x: guide(net, drop(x))), [drop]


@pytest.mark.parametrize("parts", [frozen, dropout_alone])
@pytest.mark.parametrize("copied", [False, True])
def test_other_modules_are_evaluated_and_else_left_alone(parts, copied):
    own, unlearned = parts()
    loc = nn.Parameter(torch.zeros(1))

    def learning(x):
        pyro.param("loc", loc)
        model(None, x)

    pair = Pair.of(learning, own, example=X)
    pair = copy.deepcopy(pair) if copied else pair
    assert not {id(p) for module in unlearned for p in module.parameters()} & {id(p) for p in pair.parameters()}
    dropout = next(module for module in pair.unlearned if isinstance(module, nn.Dropout))  # a copy's own, or shared
    seen = modes_of(dropout)
    ppvae.elbo(pair, X, 3, progress=False)
    pair.encode(X)
    assert seen
    assert not any(seen)
    assert dropout.training
    seen.clear()
    ppvae.fit(pair, X, steps=2, progress=False)
    assert any(seen)
    seen.clear()
    dropout.eval()
    ppvae.fit(pair, X, steps=2, progress=False)
    assert not any(seen)
