"""The sleep phase of wake-sleep: what is dreamed, on what, and the gradient that the guide takes from it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from support.zoo_pairs import Labeled
from torch import nn
from torch.nn.functional import one_hot, softplus

from ppvae import Pair
from ppvae.inference import RWS
from ppvae.inference.objectives.reweighted import dreamed_log_q
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")


class Watched(LinearVAE):
    """Keeps what its guide was given last."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            self.seen = x, pyro.sample("z", self._q(x))


def linear():
    """A pair whose guide is far from the posterior."""
    pair = Watched(4, 2)
    pair.mean.data += torch.randn(4)
    return pair


def gradient(surrogate, parameters):
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def test_dreams_come_from_the_model(assert_mean):
    pair, data = linear(), torch.full((20_000, 4), 7.0)
    log_q = dreamed_log_q(pair, data)
    x, z = pair.seen
    centered = torch.cat([z, x - pair.mean], 1).detach()
    W = pair.weight.detach()
    covariance = torch.cat(
        [torch.cat([torch.eye(2), W.T], 1), torch.cat([W, W @ W.T + (2 * pair.log_sigma).exp() * torch.eye(4)], 1)]
    )
    assert_mean(centered, 0.0, k=4.5)
    assert_mean((centered.unsqueeze(2) * centered.unsqueeze(1)).flatten(1), covariance.detach().flatten(), k=4.5)
    torch.testing.assert_close(log_q, pair._q(x).log_prob(z))
    assert _PYRO_STACK == []


def expected_log_q(pair):
    """`E_p(x, z) log N(z; A x + b, s^2)`, with `z - A x - b` normal too: in closed form."""
    W, A, scale = pair.weight.detach(), pair.encoder.weight, softplus(pair.posterior_scale)
    mean = -A @ pair.mean.detach() - pair.encoder.bias
    of_z = torch.eye(2) - A @ W
    variance = of_z.square().sum(1) + (2 * pair.log_sigma.detach()).exp() * A.square().sum(1)
    return (dist.Normal(0.0, scale).log_prob(mean) - variance / (2 * scale**2)).sum()


@pytest.mark.slow(4)
def test_guides_gradient_is_that_of_the_models_own_data(assert_mean):
    """Whatever the real data, which are the model's to learn from."""
    pair, data = linear(), torch.full((50, 4), 7.0)
    guide = [*pair.encoder.parameters(), pair.posterior_scale]
    draws = torch.stack([gradient(RWS(2, phase="sleep")(pair, data)[1], guide) for _ in range(500)])
    assert_mean(draws, gradient(expected_log_q(pair), guide), k=4.5)


def test_models_gradient_is_the_wake_phases():
    pair, data, found = linear(), torch.randn(50, 4), []
    for phase in ("wake", "sleep"):
        pyro.set_rng_seed(1)
        value, surrogate = RWS(3, phase=phase)(pair, data)
        found.append((value, gradient(surrogate, [pair.weight, pair.mean, pair.log_sigma])))
    torch.testing.assert_close(*found)


class Table(Pair):
    """`z` of three values, `x` of two, a guide that is a table; both hold the logits of z."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3))
        self.likelihood, self.table = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 3))

    def q(self, x):
        return dist.Categorical(logits=self.logits + self.table[x.long()])

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Bernoulli(logits=self.likelihood[z]), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x))


def test_gradient_of_a_discrete_guide_that_shares_a_parameter(assert_mean):
    """At fixed x and z: what is shared learns from the dream as the guide's, and not as the dreamer's."""
    pair, data = Table(), torch.zeros(100)
    x, z = torch.cartesian_prod(torch.arange(2), torch.arange(3)).T
    p = pair.logits.softmax(0)[z] * torch.where(x == 1, pair.likelihood[z].sigmoid(), (-pair.likelihood[z]).sigmoid())
    parameters = list(pair.parameters())
    exact = gradient((p.detach() * pair.q(x).log_prob(z)).sum(), parameters)
    draws = torch.stack([gradient(dreamed_log_q(pair, data).mean(), parameters) for _ in range(500)])
    reached = exact != 0
    assert (draws[:, ~reached] == 0).all()
    assert_mean(draws[:, reached], exact[reached], k=4.5)


def test_covariates_are_kept(assert_mean):
    class Watcher(Labeled):
        def guide(self, x, label):
            self.seen = x, label
            super().guide(x, label)

    pair, label = Watcher(), torch.arange(20_000) % 2
    dreamed_log_q(pair, {"x": torch.full((20_000, 3), 7.0), "label": label})
    x, seen = pair.seen
    assert torch.equal(seen, label)
    of_each = torch.cat([one_hot(label, 2).unsqueeze(2) * (x - pair.shift(label)).unsqueeze(1)], 1).flatten(1)
    assert_mean(of_each.detach(), 0.0, k=4.5)


def test_several_observations_each_take_their_place(assert_mean):
    class Two(Pair):
        def model(self, x, length, y):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("y", dist.Normal(z + 3, 1.0), obs=y)
                pyro.sample("x", dist.Normal(-length.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), obs=x)

        def guide(self, x, length, y):
            self.seen = x, length, y
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(y, 1.0))

    pair, length = Two(), torch.full((5000,), 2.0)
    dreamed_log_q(pair, (torch.zeros(5000, 2), length, torch.zeros(5000)))
    x, seen, y = pair.seen
    assert torch.equal(seen, length)
    assert_mean(x, -2.0)
    assert_mean(y, 3.0)


class Images(Pair):
    """Observes its argument through a view of it; keeps what the guide was given last."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            seen = self.view(x)
            loc = torch.arange(6.0).reshape(seen.shape[1:])
            likelihood = dist.Normal(loc + z.reshape(*z.shape, *(1,) * loc.dim()), 0.01).to_event(loc.dim())
            pyro.sample("x", likelihood, obs=seen)

    def guide(self, x):
        self.seen = x
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0, 0], 1.0))


def test_a_reshaped_observation_is_given_back_in_the_arguments_shape(assert_mean):
    pair = Images(lambda x: x.reshape(-1, 6))
    dreamed_log_q(pair, torch.zeros(1000, 3, 2))
    assert_mean(pair.seen, torch.arange(6.0).reshape(3, 2))


def test_a_permuted_observation_is_given_back_in_the_arguments_order(assert_mean):
    pair = Images(lambda x: x.transpose(1, 2))
    dreamed_log_q(pair, torch.zeros(1000, 3, 2))
    assert_mean(pair.seen, torch.arange(6.0).reshape(2, 3).T)


def test_sites_that_only_the_model_has_are_dreamed_too(assert_mean):
    class Mixture(Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.25, 0.75])))
                z = pyro.sample("z", dist.Normal(4.0 * c, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                self.seen = x, pyro.sample("z", dist.Normal(x, 1.0))

    pair = Mixture()
    dreamed_log_q(pair, torch.zeros(5000))
    x, z = pair.seen
    assert_mean(z, 3.0)
    assert_mean((x - z) ** 2, 1.0)
