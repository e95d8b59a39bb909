"""What a `Pair` reads but does not own is refused, as it would never be trained; what is the pair's own passes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from support.functions import assert_says, refusal
from torch import nn

import ppvae
from ppvae import ContractError, Pair

pytestmark = pytest.mark.usefixtures("float64")


class Noise(Pair):
    """`z ~ N(mean, 1)`, `x ~ N(z, sigma)`."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.0))

    def sigma(self):
        return pyro.param("sigma", torch.tensor(5.0), constraint=constraints.positive)

    def shift(self):
        return 0.0

    def model(self, x):
        sigma = self.sigma()
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(self.mean, 1.0)), sigma), obs=x)

    def guide(self, x):
        shift = self.shift()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))


class NoiseInGuide(Noise):
    def sigma(self):
        return 1.0

    def shift(self):
        return pyro.param("shift", lambda: torch.zeros(()))


@pytest.fixture
def x():
    return torch.randn(40)


@pytest.mark.parametrize(("kind", "role", "name"), [(Noise, "model", "sigma"), (NoiseInGuide, "guide", "shift")])
def test_it_is_refused_by_name_before_it_is_stored(kind, role, name, x):
    pair = kind()
    assert_says(refusal(pair, x), f"{role}: found pyro.param '{name}'", kind.__name__, "nn.Parameter", "Pair.of(")
    assert name not in pyro.get_param_store()
    with pytest.raises(ContractError, match=f"pyro.param '{name}'"):
        ppvae.fit(pair, x, steps=1, progress=False)


def test_one_that_is_stored_already_is_refused_too(x):
    with pyro.get_param_store().scope():
        pyro.param("sigma", torch.tensor(5.0), constraint=constraints.positive)
        assert_says(refusal(Noise(), x), "model: found pyro.param 'sigma'")


def test_both_remedies_train_it(x):
    class Own(Noise):
        def __init__(self):
            super().__init__()
            self.log_sigma = nn.Parameter(torch.tensor(5.0).log())

        def sigma(self):
            return self.log_sigma.exp()

    own, plain = Own(), Noise()
    existing = Pair.of(plain.model, plain.guide, example=x)
    for pair, log_sigma in ((own, own.log_sigma), (existing, existing.sigma)):
        ppvae.fit(pair, x, steps=200, lr=0.05, progress=False)
        assert log_sigma.exp() < 2.0
    assert "sigma" not in pyro.get_param_store()


def test_what_modules_announce_is_the_pairs_own(x):
    class Announced(NoiseInGuide):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def shift(self):
            return pyro.module("net", self.net).bias

    with pyro.get_param_store().scope():
        Announced().check(x)

    class OfPyro(PyroModule, NoiseInGuide):
        def __init__(self):
            super().__init__()
            self.scale, self.net = PyroParam(torch.tensor(2.0), constraints.positive), PyroModule[nn.Linear](1, 1)

        def sigma(self):
            return self.scale

        def shift(self):
            return self.net(torch.ones(1))

    with pyro.get_param_store().scope():
        OfPyro().check(x)


def shifted(net):
    """A pair of one parameter of its own, whose guide uses a network that is not its own."""

    class Shifted(NoiseInGuide):
        def __init__(self):
            super().__init__()
            self.nets = [net]

        def shift(self):
            return 0.1 * net(torch.zeros(1, 3, 2))[0].mean()

    return Shifted()


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: nn.GRU(2, 4), [12, 2]), (lambda: nn.LSTM(2, 4), [16, 2]), (lambda: nn.Linear(2, 3), [3, 2])],
)
def test_a_network_in_a_list_is_refused_and_both_remedies_work(make, shape, x):
    net = make()
    pair = shifted(net)
    pair.log_weights(x, num_particles=2)  # it can be measured
    with pytest.raises(ContractError) as caught:
        ppvae.fit(pair, x, steps=1, progress=False)
    message = f"pair: found an nn.Parameter {shape} that is none of Shifted"
    assert_says(str(caught.value), message, "nn.ModuleList", "freeze")
    before = {name: p.clone() for name, p in net.named_parameters()}

    net.requires_grad_(False)
    ppvae.fit(pair, x, steps=2, progress=False)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())

    net.requires_grad_(True)
    pair.nets = nn.ModuleList([net])
    ppvae.fit(pair, x, steps=2, lr=0.1, progress=False)
    assert not all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_a_network_without_pyro_module_is_not_learned_as_in_pyro(x):
    net = nn.Linear(1, 1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x.unsqueeze(-1)).squeeze(-1), 1.0))

    plain = Noise()
    pair, before = Pair.of(plain.model, guide, example=x), net.weight.item()
    ppvae.fit(pair, x, steps=2, progress=False)
    assert net.weight.item() == before


def test_functions_that_name_nothing_are_told_how_to(x):
    net = nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z.unsqueeze(-1)).squeeze(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(ValueError, match=r"found no parameter .* attributes of the pair .* pyro.module") as caught:
        ppvae.fit(Pair.of(model, guide, example=x), x, steps=1, progress=False)
    assert "pyro.param" in str(caught.value)

    def named(x):
        pyro.module("net", net)
        return model(x)

    before = net.weight.item()
    ppvae.fit(Pair.of(named, guide, example=x), x, steps=2, progress=False)
    assert net.weight.item() != before


def test_a_tensor_that_requires_gradients_and_is_no_parameter(x):
    pair = NoiseInGuide()
    pair.shift = lambda: pair.offset
    pair.offset = torch.zeros((), requires_grad=True)
    with pytest.raises(ContractError) as caught:
        ppvae.fit(pair, x, steps=1, progress=False)
    assert_says(str(caught.value), "offset: found a tensor []", "NoiseInGuide", "self.offset = nn.Parameter(")
    pair.offset = nn.Parameter(torch.zeros(()))
    ppvae.fit(pair, x, steps=2, lr=0.1, progress=False)
    assert pair.offset != 0
    pair.scaled = pair.offset * 2  # computed from one
    ppvae.fit(pair, x, steps=1, progress=False)


@pytest.mark.parametrize("held", [list, lambda tensors: dict(enumerate(tensors))])
def test_tensors_in_a_list_or_a_dict_that_require_gradients(x, held):
    pair = NoiseInGuide()
    pair.shift = lambda: pair.offsets[0]
    pair.offsets = held([torch.zeros((), requires_grad=True)])
    with pytest.raises(ContractError) as caught:
        ppvae.fit(pair, x, steps=1, progress=False)
    assert_says(str(caught.value), "offsets: found a tensor []", "NoiseInGuide", "self.offsets = nn.ParameterList(")
    pair.offsets = nn.ParameterList([torch.zeros(())])
    pair.own = held(pair.parameters())
    ppvae.fit(pair, x, steps=2, lr=0.1, progress=False)
    assert pair.offsets[0] != 0


def test_modules_that_are_made_while_it_runs_pass(x):
    pair = NoiseInGuide()
    pair.shift = lambda: 0.0 * dist.transforms.Spline(1, bound=3.0)(torch.ones(1)).sum()
    ppvae.fit(pair, x, steps=2, progress=False)
    assert pair.mean != 0


def test_a_tensor_of_the_functions_that_requires_gradients(x):
    """Pyro's SVI would not learn it either; named by pyro.param, it is."""
    weight = torch.tensor(0.5, requires_grad=True)

    def model(x):
        slope = pyro.param("weight", weight) if names else weight
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, pyro.param("scale", torch.tensor(1.0))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 4, 1.0))

    names = False
    pair = Pair.of(model, guide, example=x)
    pair.log_weights(x, num_particles=2)  # it can be measured
    with pytest.raises(ContractError) as caught:
        ppvae.fit(pair, x, steps=1, progress=False)
    assert_says(str(caught.value), "found a tensor [] with gradients that is none of ExistingPair's", "pyro.param(")
    weight.requires_grad_(False)
    ppvae.fit(pair, x, steps=1, progress=False)
    names = True
    pair = Pair.of(model, guide, example=x)
    ppvae.fit(pair, x, steps=2, lr=0.1, progress=False)
    assert pair.weight != 0.5


def test_tensors_that_are_made_to_require_gradients_while_it_runs_pass(x):
    pair = NoiseInGuide()

    @torch.enable_grad()
    def shift():
        one, two = torch.zeros(1).requires_grad_(), torch.zeros(1, requires_grad=True)
        three = torch.zeros(1)
        three.requires_grad = True
        total = (one + two + three).square().sum()
        return sum(torch.autograd.grad(total, [one, two, three])).sum()

    pair.shift = shift
    ppvae.fit(pair, x.requires_grad_(), steps=2, progress=False)
    assert pair.mean != 0


def test_a_parameter_whose_value_a_handler_gives_is_not_the_pairs(x):
    plain = Noise()
    pair = Pair.of(poutine.substitute(plain.model, data={"sigma": torch.tensor(2.0)}), plain.guide, example=x)
    assert [name for name, _ in pair.named_parameters()] == []
    own = Pair.of(poutine.condition(plain.model, data={}), plain.guide, example=x)
    with torch.no_grad():
        own.sigma.fill_(torch.tensor(2.0).log())
    one, two = (ppvae.elbo(each, x, num_samples=10, seed=0, progress=False).estimate for each in (pair, own))
    assert torch.allclose(one, two)
