"""When a pair that has passed the check is checked again: other options, other weights, rows that tell more."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import Functions, scalar_guide
from torch import nn

from ppvae import ContractError, Pair, contract, elbo, fit
from ppvae.inference import Objective

X = torch.tensor([0.5, -1.0, 1.5, 0.1, 2.0])


@pytest.fixture
def checks(monkeypatch):
    """The batches that pairs were checked on."""
    seen, check = [], contract.check

    def counted(pair, batch, in_vain):
        seen.append(batch)
        return check(pair, batch, in_vain)

    monkeypatch.setattr(contract, "check", counted)
    return seen


class Weighted(Pair):
    """Depends on the mean of the batch by a weight that is zero at first."""

    def __init__(self):
        super().__init__()
        self.weight, self.loc = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + self.loc + self.weight * x.mean(0), 1.0), obs=x)

    def guide(self, x):
        scalar_guide(x)


class Linear(Pair):
    """Its products take numbers of one precision."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.25]]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.weight, 1.0).to_event(1))


# Options.


def mixing_if(is_mixed):
    def model(x, option):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z - z.mean(0) if is_mixed(option) else z, 1.0), obs=x)

    return Functions(model, lambda x, option: scalar_guide(x))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (False, True),
        (None, "softmax"),
        ("tanh", "softmax"),
        (1, 2),
        ({"kind": "tanh"}, {"kind": "softmax"}),
        ((1, False), (1, True)),
        (torch.tanh, torch.softmax),
    ],
)
def test_another_option_is_checked(first, then):
    pair = mixing_if(lambda option: option == then)
    pair.log_weights({"x": X, "option": first})
    for measure in (pair.log_weights, lambda data: elbo(pair, data, progress=False)):
        with pytest.raises(ContractError, match="depends on the other rows"):
            measure({"x": X, "option": then})


def test_an_annealing_factor_is_no_other_option(checks):
    pair = mixing_if(lambda option: False)
    for beta in (0.0, 0.5, 1.0):
        pair.log_weights({"x": X, "option": beta})
    assert len(checks) == 1


# Rows that are all alike.


@pytest.mark.parametrize("num_rows", [1, 4])
def test_rows_that_differ_are_checked_after_rows_that_do_not(num_rows):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x - x.mean(0))

    pair = Pair.of(model, lambda x: None, example=torch.zeros(num_rows))
    with pytest.raises(ContractError, match="depends on the other rows"):
        pair.log_weights(X)
    with pytest.raises(ContractError, match="depends on the other rows"):
        elbo(pair, X, progress=False)


def test_an_entry_whose_rows_differ_is_checked_once(checks):
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    pair, alike = Functions(model), torch.ones(5)
    for y in (alike, alike, X, alike, X):
        pair.log_weights((X, y))
    assert [batch[1] is X or torch.equal(batch[1], X) for batch in checks] == [False, True]


# Weights.


def set_weight(pair):
    with torch.no_grad():
        pair.weight.fill_(2.0)


CHANGES = {
    "load_state_dict": lambda pair: pair.load_state_dict({"weight": torch.tensor(2.0), "loc": torch.tensor(0.0)}),
    "in place": set_weight,
    "data": lambda pair: pair.weight.data.fill_(2.0),
    "new parameter": lambda pair: setattr(pair, "weight", nn.Parameter(torch.tensor(2.0))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_are_checked(change):
    for measure in (
        lambda pair: pair.log_weights(X),
        lambda pair: elbo(pair, X, progress=False),
        lambda pair: pair.encode(X),
    ):
        pair = Weighted()
        measure(pair)
        CHANGES[change](pair)
        with pytest.raises(ContractError, match="depends on the other rows"):
            measure(pair)


def test_all_weights_that_are_loaded_are_checked():
    pair, state = Weighted(), Weighted().state_dict()
    for loc in range(6):
        pair.load_state_dict(state | {"loc": torch.tensor(float(loc))})
        pair.log_weights(X)
    pair.load_state_dict(state | {"weight": torch.tensor(2.0)})
    with pytest.raises(ContractError, match="depends on the other rows"):
        pair.log_weights(X)


@pytest.mark.parametrize("fused", [False, True])
def test_a_loop_of_ones_own_is_checked(fused):
    pair = Weighted()
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.5, fused=fused)

    def train():
        for _ in range(3):
            optimizer.zero_grad()
            pair.log_weights(X).log_w.mean().neg().backward()
            optimizer.step()

    with pytest.raises(ContractError, match="depends on the other rows"):
        train()


def test_a_loop_of_ones_own_is_checked_now_and_then(checks):
    pair = Weighted()
    pair.weight.requires_grad_(False)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        pair.log_weights(X).log_w.mean().neg().backward()
        optimizer.step()
    assert len(checks) == 1 + 6  # after 1, 2, 4, 8, 16 and 32 changes
    elbo(pair, X, progress=False)
    assert len(checks) == 8  # a measurement is of weights that were checked
    for _ in range(3):
        elbo(pair, X, progress=False)
    assert len(checks) == 8


def test_checks_draw_no_numbers_of_ones_own():
    found = []
    for num_checks in (1, 2):
        pair = Weighted()
        for _ in range(num_checks):
            pair.log_weights(X)
            pair.checked_kinds.clear()
        torch.manual_seed(0)
        found.append(pair.log_weights(X).log_w)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_weights_of_any_type_are_told_apart():
    pair = Weighted()
    pair.counts = nn.Parameter(torch.arange(3), requires_grad=False)
    pair.turns = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    pair.later = nn.LazyLinear(3)
    pair.log_weights(X)
    assert pair.checked_kinds.cover(X)
    pair.checked_kinds.clear_if_changed(pair)
    assert pair.checked_kinds.cover(X)
    pair.counts += 1
    pair.checked_kinds.clear_if_changed(pair)
    assert not pair.checked_kinds.cover(X)


@pytest.mark.parametrize("checked_there", [False, True])
def test_data_follow_a_pair_that_changes_its_precision(checked_there):
    """Though its weights are the same numbers in the other one, and data of the first one have passed."""
    pair = Linear()
    pair.check(X[:, None])
    pair.double()
    if checked_there:
        pair.check(X[:, None])
    assert pair.log_weights(X[:, None]).log_w.dtype == torch.float64


def test_copies_measure_as_the_pair_does():
    pair = Weighted()
    pair.log_weights(X)
    for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert other.log_weights(X).log_w.shape == (1, 5)


def test_an_objective_that_asks_for_weights_is_traced_as_ever(caplog):
    """Though rows that were alike when the pair was checked are not looked at, nor weights that stand in for others."""

    class Mean(Objective):
        def __call__(self, pair, batch, step=0):
            value = pair.log_weights(batch, 2).log_w.mean(0)
            return value, value.mean()

    def model(x, y):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z[..., None])[..., 0] + y, 1.0), obs=x)

    fits = []
    for compile in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(1, 1)
        pair = Pair.of(model, lambda x, y: scalar_guide(x), example=(X, torch.ones(5)))
        history = fit(pair, (X, torch.ones(5)), Mean(), steps=3, seed=0, progress=False, compile=compile).history
        fits.append(history["bound"])
    assert not [record for record in caplog.records if record.name == "ppvae"]  # of going on uncompiled
    torch.testing.assert_close(*fits)
