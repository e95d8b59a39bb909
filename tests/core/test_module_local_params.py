"""Pyro's setting `module_local_params`, by which the parameters of a PyroModule are its own and in no store."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import ppvae
from ppvae import ContractError, Pair

pytestmark = pytest.mark.usefixtures("float64")


class Decoder(PyroModule):
    """x given z: a plain module, one of Pyro's, a parameter, and one with a constraint."""

    def __init__(self):
        super().__init__()
        self.network, self.linear = nn.Linear(2, 3), PyroModule[nn.Linear](3, 4)
        self.loc = nn.Parameter(torch.zeros(4))
        self.scale = PyroParam(torch.full((4,), 0.7), constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            loc = self.linear(self.network(z)) + self.loc
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)


class Encoder(PyroModule):
    """z given x, by parts of the same names as the decoder's."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 2)
        self.scale = PyroParam(torch.full((2,), 0.5), constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.network(x), self.scale).to_event(1))


@pytest.fixture
def local():
    with pyro.settings.context(module_local_params=True):
        yield


@pytest.fixture
def x():
    return torch.randn(8, 4)


@pytest.fixture
def pair(local, x):
    return Pair.of(Decoder(), Encoder(), x)


def test_parameters_of_one_name_are_two(local, x):
    before = list(pyro.get_param_store())
    pair = Pair.of(Decoder(), Encoder(), x)
    names = [name.partition(".")[2] for name, _ in pair.named_parameters()]
    assert sorted(name for name in names if names.count(name) > 1) == [
        *["network.bias"] * 2,
        *["network.weight"] * 2,
        *["scale_unconstrained"] * 2,
    ]
    assert len(names) == 9
    assert list(pyro.get_param_store()) == before


def test_weights_are_plain_pyros(pair, x):
    found = pair.log_weights(x, 3)
    functions = pair._model[0], pair._guide[0]
    for k in range(3):
        given = {"z": found.latents["z"][k]}
        log_p, log_q = (
            sum(site["fn"].log_prob(site["value"]) for site in trace.nodes.values() if site["type"] == "sample")
            for trace in (
                pyro.poutine.trace(pyro.poutine.condition(pyro.poutine.block(f, hide=["data"]), given)).get_trace(x)
                for f in functions
            )
        )
        torch.testing.assert_close(found.log_w[k], log_p - log_q)


def test_all_learns_as_with_svi(local, x):
    """One step of gradient descent on many draws, as that of plain Pyro."""
    decoder, encoder = Decoder(), Encoder()
    pair = Pair.of(decoder, encoder, x)
    before = copy.deepcopy(pair.state_dict())
    ppvae.fit(pair, x, ppvae.ELBO(4000), steps=1, batch_size=8, optimizer="sgd", lr=1e-3, compile=False, progress=False)
    moved = {name: value - before[name] for name, value in pair.state_dict().items()}
    pair.load_state_dict(before)
    repeated, bound = x.repeat(4000, 1), Trace_ELBO()(decoder, encoder)
    (-bound(repeated) / len(repeated)).backward()
    for name, parameter in pair.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(moved[name], 1e-3 * parameter.grad, atol=5e-5, rtol=0.05)
        assert moved[name].abs().max() > 0


def test_recorded_steps_are_the_same(pair, x, local):
    other = copy.deepcopy(pair)
    for how, trained in ((False, pair), ("auto", other)):
        ppvae.fit(trained, x, steps=130, compile=how, progress=False)
    assert all(map(torch.equal, pair.parameters(), other.parameters()))


def test_a_copy_has_its_own(pair, x, local):
    kept, other = pair.log_weights(x).log_p.detach(), copy.deepcopy(pair)
    ppvae.fit(other, x, steps=5, lr=0.1, progress=False)
    for own, learned in zip(pair.parameters(), other.parameters(), strict=True):
        assert not torch.equal(own, learned)
    assert pair.log_weights(x).log_p.shape == kept.shape


def test_a_guide_of_pyros(local, x):
    pair = Pair.of(decoder := Decoder(), AutoNormal(decoder), x)
    before = copy.deepcopy(list(pair.parameters()))
    ppvae.fit(pair, x, steps=5, batch_size=8, lr=0.1, progress=False)
    assert len(before) == 8
    assert not any(map(torch.equal, before, pair.parameters()))


def test_a_module_that_no_pair_holds_is_refused(local, x):
    decoder, encoder = [Decoder()], [Encoder()]

    class Outside(Pair):
        def model(self, x):
            decoder[0](x)

        def guide(self, x):
            encoder[0](x)

    with pytest.raises(ContractError, match=r"pyro.param '(network|scale).*is no parameter of Outside"):
        Outside().check(x)
