"""Modules that plain functions use, wherever they refer to them: learned if announced, evaluated in any case."""

import copy
import sys
from functools import partial, wraps
from types import ModuleType, SimpleNamespace

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


def other_file(net):
    """A Python module of the author's own, which holds the network, an object with it, and a function of it."""
    written = """
import pyro

class Encoder:
    def loc(self, x):
        return pyro.module("net", self.net)(x)

def loc(x):
    return pyro.module("net", net)(x)
"""
    file = sys.modules["authors_networks"] = ModuleType("authors_networks")
    exec(written, vars(file))
    file.net, file.held = net, file.Encoder()
    file.held.net = net
    return file


def guide_at(loc, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc(x), 1.0).to_event(1))


def named_in_another_file(net):
    networks = other_file(net)
    return lambda x: guide(networks.net, x)


def function_of_another_file(net):
    networks = other_file(net)
    return lambda x: guide_at(networks.loc, x)


def object_of_another_file(net):
    held = other_file(net).held
    return lambda x: guide_at(held.loc, x)


def namespace(net):
    networks = SimpleNamespace(encoder=net)
    return lambda x: guide(networks.encoder, x)


def default(net):
    def own(x, net=net):
        guide(net, x)

    return own


def decorator(net):
    def with_network(function):
        @wraps(function)
        def called(x):
            function(x, net)

        return called

    return with_network(lambda x, net: guide(net, x))


def function_inside(net):
    def own(x):
        def loc():
            return pyro.module("net", net)(x)

        guide_at(lambda _: loc(), x)

    return own


def class_attribute(net):
    class Encoder:
        held = (net,)

        @staticmethod
        def loc(x):
            return pyro.module("net", Encoder.held[0])(x)

    own = Encoder()
    return lambda x: guide_at(own.loc, x)


class Tanh(dist.TransformModule):
    """A transform that holds a network."""

    bijective, domain, codomain = True, dist.constraints.real_vector, dist.constraints.real_vector

    def __init__(self, net):
        super().__init__()
        self.net = net


def distribution(net):
    held = dist.TransformedDistribution(dist.Normal(torch.zeros(1), 1.0).to_event(1), [Tanh(net)])
    return lambda x: guide(held.transforms[0].net, x)


class ListedIn(nn.Module):
    """A module that holds a network in a list, where PyTorch does not look."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]

    def forward(self, x):
        guide(self.nets[0], x)


def named_by_a_method_of_a_module(net):
    class Naming(nn.Module):
        def forward(self, x):
            return self.drawn(x)

        def drawn(self, x):
            return guide(net, x)

    return Naming()


GUIDES = {
    "partial": lambda net: partial(guide, net),
    "partial_by_name": lambda net: partial(guide, net=net),
    "partial_of_a_function": lambda net: partial(lambda function, x: function(x), partial(guide, net)),
    "callable": lambda net: Called(net, guide),
    "slots": Slotted,
    "method": lambda net: Called(net, guide).__call__,
    "closure": lambda net: lambda x: guide(net, x),
    "objects_and_containers": through_holder,
    "named_in_another_file": named_in_another_file,
    "function_of_another_file": function_of_another_file,
    "object_of_another_file": object_of_another_file,
    "namespace": namespace,
    "default": default,
    "decorator": decorator,
    "function_inside": function_inside,
    "class_attribute": class_attribute,
    "distribution": distribution,
    "list_of_a_module": ListedIn,
    "method_of_a_module": named_by_a_method_of_a_module,
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


def exact_elbo(loc):
    """That of a guide with these means, `[N]`."""
    return (dist.Normal(loc[:, None], 1.0).log_prob(X) - 0.5).sum(1) - loc.square() / 2


def assert_a_copy_is_its_own(pair, net, data):
    """A copy that is changed, or trained, has other numbers, and leaves the first one's as they were."""
    before = ppvae.elbo(pair, data, 5, seed=0, progress=False).estimate
    own = copy.deepcopy(pair)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.fill_(0.2)
    found = ppvae.elbo(own, data, 4000, seed=0, progress=False)
    expected = exact_elbo(8 * 0.2 * (0.2 * X.sum(1) + 0.2) + 0.2)
    assert ((found.estimate - expected).abs() < 5 * found.std_error).all()
    weights = net[0].weight.clone()
    ppvae.fit(own, data, steps=3, progress=False)
    assert all((parameter != 0.2).any() for parameter in own.parameters())
    assert torch.equal(net[0].weight, weights)
    assert torch.equal(ppvae.elbo(pair, data, 5, seed=0, progress=False).estimate, before)


@pytest.mark.parametrize("name", GUIDES)
def test_a_copy_has_modules_of_its_own(name):
    assert_a_copy_is_its_own(*made(name), X)


def test_modules_that_are_passed_are_the_pairs_own():
    net = network()
    pair = Pair.of(lambda x, net: model(net, x), lambda x, net: guide(net, x), example=(X, net))
    assert {id(p) for p in pair.parameters()} == {id(p) for p in net.parameters()}
    seen = modes_of(net[1])
    assert_a_copy_is_its_own(pair, net, (X, net))
    assert not all(seen)


def test_a_module_that_cannot_be_found_is_refused_and_the_remedy_works():
    net = network()
    hidden = iter(lambda: net, None)  # what it has can be taken, not looked at
    with pytest.raises(ppvae.ContractError, match=r"pyro\.module 'net'.*closure"):
        Pair.of(partial(model, None), lambda x: guide(next(hidden), x), example=X)
    found = next(hidden)
    assert_a_copy_is_its_own(Pair.of(partial(model, None), lambda x: guide(found, x), example=X), net, X)


def test_a_module_is_the_one_that_computes_whatever_the_store_has_of_its_name():
    """Of two in one list, the first was trained by Pyro, and is in its store."""
    nets = [network(), network()]

    def own(x):
        guide(nets[1], x)

    with pyro.get_param_store().scope():
        pyro.module("net", nets[0])
        pair = Pair.of(partial(model, None), own, example=X)
        assert {id(p) for p in pair.parameters()} == {id(p) for p in nets[1].parameters()}
        assert_a_copy_is_its_own(pair, nets[1], X)


def test_two_modules_of_one_name_are_refused_and_the_remedy_works():
    """Pyro learns the first alone."""
    net, other = network(), nn.Linear(3, 3)

    def named(name):
        def own(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(pyro.module(name, nn.Sequential(other))(z), 1.0).to_event(1), obs=x)

        def own_guide(x):
            with pyro.plate("data", len(x)):
                loc = pyro.module("net", net)(x)
                pyro.sample("z", dist.Normal(loc.expand(-1, 3), 1.0).to_event(1))

        return own, own_guide

    with pytest.raises(ppvae.ContractError, match=r"pyro\.module 'net': found two modules of this name"):
        Pair.of(*named("net"), example=X)
    pair = Pair.of(*named("decoder"), example=X)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in [*net.parameters(), *other.parameters()]}


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
