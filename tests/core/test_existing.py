"""`Pair.of` on Pyro code as people write it, unchanged: its parameters are taken over, the global store is left alone.

`pyro_tutorials` has code in the manner of Pyro's own VAE and deep Markov model tutorials.
"""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.runtime import _PYRO_STACK
from safetensors.torch import load_file, save_file
from support.pyro_tutorials import DMM, PlainVAE, TutorialVAE, sequences, written_out_log_w
from torch import nn

from ppvae import ContractError, Pair


@pytest.fixture(autouse=True)
def _store():
    """An empty global store, before and after; no handler left."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    assert _PYRO_STACK == []


def snapshot():
    """The global store as it is: names, leaves, their values, and constraints."""
    store = pyro.get_param_store()
    state = store.get_state()
    return {name: (id(p), p.detach().clone(), state["constraints"][name]) for name, p in state["params"].items()}


def assert_unchanged(before, but_values_of=()):
    after = snapshot()
    assert list(after) == list(before)
    for name in before:
        assert after[name][0] == before[name][0]
        assert after[name][2] is before[name][2]
        if name not in but_values_of:
            torch.testing.assert_close(after[name][1], before[name][1], rtol=0, atol=0)


def assert_trains(pair, x, steps=3):
    """Every parameter gets a gradient and moves; each is there once."""
    parameters = list(pair.parameters())
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (-pair.log_weights(x, num_particles=4).log_w.mean()).backward()
        optimizer.step()
    assert len(parameters) == len({id(p) for p in parameters})
    for (name, p), old in zip(pair.named_parameters(), before, strict=True):
        assert p.is_leaf, name
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert not torch.equal(p, old), name


def assert_saves(pair, path):
    """safetensors refuses tensors that share memory."""
    state = pair.state_dict()
    save_file(state, path)
    loaded = load_file(path)
    assert loaded.keys() == state.keys() >= dict(pair.named_parameters()).keys()
    with torch.no_grad():
        for p in pair.parameters():
            p.zero_()
    pair.load_state_dict(loaded)
    for name, value in pair.state_dict().items():
        assert torch.equal(value, loaded[name])


def assert_agrees_with_pyro(pair, model, guide, x, assert_mean):
    """The mean log weight is Pyro's ELBO per data point, on the same parameters."""
    x = x.repeat(50, *[1] * (x.dim() - 1))
    with torch.no_grad(), pyro.get_param_store().scope(pyro.get_param_store().get_state()):
        theirs = torch.tensor([-Trace_ELBO().loss(model, guide, x) / len(x) for _ in range(50)])
        ours = pair.log_weights(x, num_particles=50).log_w.mean(1)
    assert_mean(ours - theirs, 0.0)


# In the manner of Pyro's VAE.


@pytest.mark.parametrize("cls", [TutorialVAE, PlainVAE])
def test_vae_in_the_manner_of_pyros_example(cls, tmp_path, assert_mean):
    vae, x = cls(), torch.bernoulli(torch.full((6, 1, 4, 4), 0.5))
    pair = Pair.of(vae.model, vae.guide, example=x)
    theirs = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    assert {id(p) for p in pair.parameters()} == {id(p) for p in theirs}
    assert pair.eval().training is vae.encoder.training is vae.decoder.training is False
    assert list(pyro.get_param_store()) == []
    assert_agrees_with_pyro(pair, vae.model, vae.guide, x, assert_mean)
    assert_trains(pair, x)
    assert_saves(pair, tmp_path / "pair.safetensors")
    assert pair.sample(5).shape == (5, 16)
    assert list(pyro.get_param_store()) == []


# In the manner of Pyro's deep Markov model.


@pytest.mark.parametrize("kind", [tuple, dict])
def test_deep_markov_model_in_the_manner_of_pyros_tutorial(kind, tmp_path):
    dmm, (x, backwards, mask) = DMM(), sequences()
    names = "mini_batch", "mini_batch_reversed", "mini_batch_mask"
    batch = (x, backwards, mask) if kind is tuple else dict(zip(names, (x, backwards, mask), strict=True))
    pair = Pair.of(dmm.model, dmm.guide, example=batch)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in dmm.parameters()}
    weights = pair.log_weights(batch, num_particles=6)
    assert weights.log_w.shape == (6, 3)
    written_out = written_out_log_w(dmm, x, backwards, mask, weights.latents)
    torch.testing.assert_close(weights.log_w, written_out)
    assert torch.equal(weights.log_p_sites["z_3"][:, 1], torch.zeros(6))  # beyond the second sequence's end
    assert_trains(pair, batch)
    assert_saves(pair, tmp_path / "pair.safetensors")
    samples = pair.sample(5)
    assert {name: value.shape for name, value in samples.items()} == {f"obs_x_{t}": (5, 5) for t in range(1, 5)}
    assert list(pyro.get_param_store()) == []


# Free functions, with modules of the file and constrained parameters.

NETWORK = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout(0.1))
LAST_LAYER = NETWORK[1]


def network_of_x(x):
    return NETWORK(x)


def free_model(x):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    loading = pyro.param("loading", lambda: torch.eye(3, 4))
    with pyro.plate("data", len(x)):
        weights = pyro.param("half", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        c = pyro.sample("c", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(c.to(x.dtype).unsqueeze(-1) * torch.ones(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loading, scale).to_event(1), obs=x)


def free_guide(x):
    pyro.module("network", NETWORK)
    pyro.module("last", LAST_LAYER)
    tril = pyro.param("guide.tril", torch.eye(3) * 0.5, constraint=constraints.lower_cholesky)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(network_of_x(x), scale_tril=tril))


def test_free_functions_with_constrained_parameters(tmp_path):
    x = torch.randn(6, 4)
    pair = Pair.of(free_model, free_guide, example=x)
    leaves = {n: p for n, p in pair.named_parameters() if not n.startswith("network.")}
    assert {n: tuple(p.shape) for n, p in leaves.items()} == {
        "guide/tril": (3, 3),
        "scale": (),
        "loading": (3, 4),
        "half_": (3,),  # `half` itself is a method of every module
    }
    torch.testing.assert_close(leaves["scale"], torch.tensor(0.5).log())
    torch.testing.assert_close(leaves["loading"], torch.eye(3, 4))
    assert {id(p) for p in pair.network.parameters()} == {id(p) for p in NETWORK.parameters()}
    assert "network.0.running_mean" in pair.state_dict()  # a helper's global module, with its buffers
    assert_trains(pair, x)
    assert_saves(pair, tmp_path / "pair.safetensors")
    pair.eval()
    assert not NETWORK.training
    assert list(pyro.get_param_store()) == []


def test_constraints_hold_during_training():
    x, seen = torch.randn(6, 4), []

    def watched(x):
        free_guide(x)
        seen.append(pyro.param("guide.tril").detach())

    pair = Pair.of(free_model, watched, example=x)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        pair.log_weights(x).log_w.mean().neg().backward()
        optimizer.step()
        assert all(constraints.lower_cholesky.check(tril) for tril in seen)
    assert not torch.allclose(seen[-1], seen[0])


@pytest.mark.parametrize("wrap", ["closure", "partial", "handler", "container"])
def test_modules_are_found_where_functions_keep_them(wrap):
    net, x = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(6, 4)
    nets = {"encoder": [net]}

    def guide(x, network=None):
        network = network or (nets["encoder"][0] if wrap == "container" else net)
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    function = {"partial": partial(guide, network=net), "handler": poutine.scale(guide, scale=0.5)}.get(wrap, guide)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    pair = Pair.of(model, function, example=x)
    assert set(pair.state_dict()) == {f"network.{name}" for name in net.state_dict()}
    assert {id(p) for p in pair.parameters()} == {id(p) for p in net.parameters()}


# PyroModule.


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 4)
        self.sigma = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.linear(z), self.sigma).to_event(1), obs=x)


class RegressionGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.scale_tril = PyroParam(torch.eye(2), constraint=constraints.lower_cholesky)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.encoder(x), scale_tril=self.scale_tril))


def test_pyro_modules(tmp_path, assert_mean):
    model, guide, x = Regression(), RegressionGuide(), torch.randn(6, 4)
    pair = Pair.of(model, guide, example=x)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in [*model.parameters(), *guide.parameters()]}
    assert_agrees_with_pyro(pair, model, guide, x, assert_mean)
    assert_trains(pair, x)
    assert_saves(pair, tmp_path / "pair.safetensors")
    assert list(pyro.get_param_store()) == []
    assert model.sigma > 0


# The global store.


def trained(steps=5):
    """Free functions trained by Pyro's SVI: model, guide, data."""
    x, network = torch.randn(6, 4), nn.Linear(4, 3)

    def model(x):
        scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
        loading = pyro.param("loading", torch.ones(3, 4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loading, scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)
        spread = pyro.param("spread", torch.ones(3), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), spread).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)
    return model, guide, x


def test_values_trained_before_are_taken_over(assert_mean):
    model, guide, x = trained()
    pyro.param("not of this pair", torch.tensor(2.0), constraint=constraints.interval(0.0, 3.0))
    values = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    before = snapshot()
    pair = Pair.of(model, guide, example=x)
    assert_unchanged(before)
    assert values["scale"] != 0.5
    torch.testing.assert_close(pair.get_parameter("scale").exp(), values["scale"])
    torch.testing.assert_close(pair.get_parameter("spread").exp(), values["spread"])
    torch.testing.assert_close(pair.get_parameter("loading"), values["loading"])
    assert {n.split(".")[0] for n, _ in pair.named_parameters()} == {"scale", "spread", "loading", "network"}
    assert_agrees_with_pyro(pair, model, guide, x, assert_mean)
    assert_unchanged(before)
    assert_trains(pair, x)
    # The values of pyro.param stay what they were; those of pyro.module are the module's own parameters, which moved.
    assert_unchanged(before, but_values_of=("network$$$weight", "network$$$bias"))


def test_values_loaded_into_a_module_are_taken_over(tmp_path):
    """`update_module_params=True` after a load gives the module the store's parameters: those are what is learned."""
    first, second, x = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(6, 4)

    def functions(network):
        def guide(x):
            pyro.module("network", network, update_module_params=True)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

        return model, guide

    pyro.module("network", first)
    before = snapshot()
    pair = Pair.of(*functions(second), example=x)
    torch.testing.assert_close(pair.get_parameter("network.weight"), first.weight)
    assert_unchanged(before)
    assert_trains(pair, x)
    torch.testing.assert_close(pair.get_parameter("network.weight"), second.weight)


def test_the_store_is_left_alone_after_an_error():
    model, guide, x = trained()
    before = snapshot()

    def failing(x):
        pyro.param("late", torch.tensor(1.0))
        guide(x)
        raise RuntimeError("no such luck")

    with pytest.raises(ContractError, match=r"guide, after site 'z': found RuntimeError: no such luck"):
        Pair.of(model, failing, example=x)
    assert_unchanged(before)
    assert _PYRO_STACK == []

    pair = Pair.of(model, guide, example=x)
    with pytest.raises(ContractError, match="does the network take data of this shape"):
        pair.log_weights(torch.randn(6, 9))
    assert_unchanged(before)
    assert _PYRO_STACK == []


def test_two_pairs_of_one_name_do_not_mix():
    def functions(value):
        def model(x):
            loc = pyro.param("loc", torch.tensor(value))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        return model, lambda x: None

    x = torch.zeros(2)
    pairs = [Pair.of(*functions(value), example=x) for value in (0.0, 3.0)]
    difference = pairs[0].log_weights(x).log_w - pairs[1].log_weights(x).log_w
    torch.testing.assert_close(difference, torch.full((1, 2), 4.5))


def test_a_parameter_first_met_after_the_example_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            if x.sum() > 0:
                pyro.param("rare", torch.tensor(1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    pair = Pair.of(model, lambda x: None, example=-torch.ones(3))
    with pytest.raises(ContractError, match=r"\['rare'\]: found first now, expected on the example already"):
        pair.log_weights(torch.ones(3))


def test_broken_functions_are_refused_by_site():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ContractError, match=r"guide site 'z': found size 4 at dim -1.*to_event"):
        Pair.of(model, guide, example=torch.randn(6, 4))


def test_precision_follows_the_parameters():
    model, guide, x = trained()
    pair = Pair.of(model, guide, example=x)
    log_p = pair.to(torch.float64).log_weights(x.double()).log_p
    assert {p.dtype for p in pair.parameters()} == {log_p.dtype} == {torch.float64}
