"""What is said of sites that a data plate does not hold as it should, each with a remedy that is followed here."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from support.functions import assert_says
from torch import nn

import ppvae
from ppvae import ContractError, Pair

pytestmark = pytest.mark.usefixtures("float64")

X = torch.tensor([0.3, 2.0, -1.0, 0.2, 0.9], dtype=torch.float64)


def message_of(model, guide, x=X, **settings):
    with pytest.raises(ContractError) as refused:
        Pair.of(model, guide, x, **settings)
    return str(refused.value)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def assert_exact(pair, x=X):
    """log p(x) is that of N(0, 2), by each draw of the exact guide."""
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    torch.testing.assert_close(pair.log_weights(x, 3).log_w, exact.expand(3, -1))


def test_a_factor_that_all_rows_share_is_a_penalty():
    """Its remedy gives the gradient of Pyro's bound, per data point; the bound itself has no part of it."""
    network = nn.Linear(1, 1)

    def decoded(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z).squeeze(-1), 1.0), obs=x)

    def penalized(x):
        pyro.factor("decay", -0.7 * network.weight.square().sum())
        decoded(x)

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 1e-9).to_event(1))

    message = message_of(penalized, narrow)
    assert_says(message, "model site 'decay'", "pyro.factor outside the data plate", "pair.penalty", "their number")
    pair = Pair.of(decoded, narrow, X)
    pair.penalty = lambda: 0.7 * network.weight.square().sum() / len(X)
    with pyro.get_param_store().scope():
        loss = Trace_ELBO().differentiable_loss(penalized, narrow, X)
    (gradient,) = torch.autograd.grad(loss, [network.weight])
    before = network.weight.item()
    ppvae.fit(pair, X, ppvae.ELBO(), steps=1, optimizer=torch.optim.SGD, lr=0.1, progress=False)
    assert network.weight.item() - before == pytest.approx(-0.1 * gradient.item() / len(X), rel=1e-5)


def test_a_loop_over_the_rows_is_one_statement():
    def looped(x):
        for i in pyro.plate("rows", len(x)):
            pyro.sample(f"x_{i}", dist.Normal(pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0)), 1.0), obs=x[i])

    def looped_guide(x):
        for i in pyro.plate("rows", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(x[i] / 2, 0.5**0.5))

    message = message_of(looped, looped_guide)
    assert_says(message, "guide site 'z_0'", "in a loop over plate 'rows'", "with pyro.plate('rows', len(x), dim=-1)")
    assert_exact(Pair.of(model, guide, X))


def test_what_is_observed_outside_is_no_latent():
    """Coins thrown one by one: the remedy names no value for the latent, which is given already."""

    def coins(x):
        fairness = pyro.sample("fairness", dist.Beta(10.0, 10.0))
        for i in range(len(x)):
            pyro.sample(f"x_{i}", dist.Bernoulli(fairness), obs=x[i])

    def coins_at_once(x):
        fairness = pyro.sample("fairness", dist.Beta(10.0, 10.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Bernoulli(fairness), obs=x)

    def fair(x):
        pyro.sample("fairness", dist.Beta(15.0, 5.0))

    x = torch.tensor([1.0, 0.0, 1.0, 1.0])
    message = message_of(coins, fair, x, condition="mean")
    assert_says(message, "model site 'x_0'", "outside any plate", "one statement rather than one for each in a loop")
    assert "condition=" not in message
    found = ppvae.log_evidence(Pair.of(coins_at_once, fair, x, condition="mean"), x, "exact", progress=False)
    torch.testing.assert_close(found.estimate, dist.Bernoulli(0.75).log_prob(x))


def test_an_auxiliary_draw_of_each_row_is_named_as_such():
    def auxiliary(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x / 2, 0.5**0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))

    message = message_of(model, auxiliary)
    assert_says(message, "guide site 'u'", "found an auxiliary draw", "a distribution of its own", "['z']")
    assert_exact(Pair.of(model, guide, X))


def test_a_value_that_all_rows_share_is_given_to_each():
    def constrained(shared):
        def own(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("positive", dist.Bernoulli(logits=z), obs=shared(x))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return own

    message = message_of(constrained(lambda x: torch.tensor(1.0)), guide)
    assert_says(message, "model site 'positive'", "shape [], expected [batch, *event]", "value.expand(len(x))")
    pair = Pair.of(constrained(lambda x: torch.tensor(1.0).expand(len(x))), guide, X)
    weights = pair.log_weights(X, 3)
    expected = dist.Normal(0.0, 2**0.5).log_prob(X) + nn.functional.logsigmoid(weights.latents["z"])
    torch.testing.assert_close(weights.log_w, expected)


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro's, of what is refused
def test_a_straight_through_draw_has_no_density_of_given_values():
    """The remedy's bound is the exact one, by Bayes' rule for three classes."""
    x, classes = torch.randn(4, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)

    def coded(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(c, 1.0).to_event(1), obs=x)

    def straight_through(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=x))

    def one_hot(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(logits=x))

    assert_says(message_of(coded, straight_through, x), "guide site 'c'", "nan of a value that is given", "OneHotCateg")
    log_x = dist.Normal(classes, 1.0).to_event(1).log_prob(x[:, None])
    exact = log_x.logsumexp(-1) - torch.tensor(3.0).log()  # the posterior is the softmax of x
    torch.testing.assert_close(Pair.of(coded, one_hot, x).exact_elbo(x), exact)


def test_what_changes_from_call_to_call_is_told_from_chance():
    calls = []

    def drifting(x):
        calls.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0 + 0.1 * len(calls)), obs=x)

    assert_says(message_of(drifting, guide), "model site 'x'", "of the same values", "as a counter does")


def test_a_plate_of_a_fixed_size_is_said_to_be_of_another():
    def fixed(x):
        with pyro.plate("documents", 5):
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    with pytest.raises(ContractError) as error:
        Pair.of(fixed, lambda x: None, torch.zeros(6))
    assert_says(str(error.value), "'x'", "plate 'documents' of size 5", "expected 6", "as len(x) does")
    assert "to_event" not in str(error.value)


def test_data_points_at_another_dimension_fail_an_assertion_and_the_remedy_works():
    """As Pyro's LDA has its data, [words, documents]."""

    def model(data):
        assert data.shape[0] == 7
        with pyro.plate("documents", data.shape[1]):
            z = pyro.sample("z", dist.Normal(torch.zeros(data.shape[1]), 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 7), 1.0).to_event(1), obs=data.mT)

    def guide(data):
        with pyro.plate("documents", data.shape[1]):
            pyro.sample("z", dist.Normal(data.mean(0), 1.0))

    data = torch.randn(7, 5)
    with pytest.raises(ContractError) as error:
        Pair.of(model, guide, data[:6])
    assert_says(str(error.value), "model", "AssertionError: assert", "dimension 0", "data = data.mT")
    pair = Pair.of(lambda rows: model(rows.mT), lambda rows: guide(rows.mT), data.mT)
    assert pair.log_weights(data.mT, num_particles=3).log_w.shape == (3, 5)
