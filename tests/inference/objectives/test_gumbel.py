"""Gumbel-softmax, straight through: exact draws, an unbiased value, a gradient whose bias falls with temperature."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from support.zoo_pairs import Counts, Linearly, Summed
from torch import nn

from ppvae import ContractError, Pair, fit
from ppvae.inference import EnumeratedELBO, GumbelSoftmaxELBO
from ppvae.models import GaussianMixture

KINDS = ["one-hot", "bits", "vector"]


class Watched(Linearly):
    """Keeps the latents that the model was given last."""

    def latents(self, logits):
        self.seen = super().latents(logits)
        return self.seen


def enumerable(pair):
    """The same pair with a site for each bit, as a vector of them cannot be enumerated."""
    if pair.kind != "vector":
        return pair
    twin = Linearly("bits")
    twin.load_state_dict(pair.state_dict())
    return twin


def flat_gradient(surrogate, pair):
    return torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, list(pair.parameters()))])


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_discrete_and_the_guides_own(kind, assert_mean):
    pair, x = Watched(kind), torch.randn(3, 3)
    GumbelSoftmaxELBO(num_particles=5000, temperature=2.0)(pair, x)
    assert pair.seen.requires_grad
    assert ((pair.seen == 0) | (pair.seen == 1)).all()
    if kind == "one-hot":
        assert (pair.seen.sum(-1) == 1).all()
    logits = pair.encoder(x).detach()
    assert_mean(pair.seen.detach(), logits.softmax(-1) if kind == "one-hot" else logits.sigmoid())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_value_is_unbiased(kind, assert_mean):
    pair, x = Linearly(kind), torch.randn(3, 3)
    exact = EnumeratedELBO()(enumerable(pair), x)[0].detach()
    value, _ = GumbelSoftmaxELBO(num_particles=2, temperature=3.0)(pair, x.repeat(2000, 1))
    assert_mean(value.detach().reshape(2000, 3), exact)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_bias_of_the_gradient_falls_with_the_temperature(kind):
    """To nothing here, where log p(x | z) is quadratic in z: its slope, averaged over both ends, is its difference."""
    pair, x = Linearly(kind), torch.randn(2, 3)
    twin = enumerable(pair)
    exact = flat_gradient(EnumeratedELBO()(twin, x)[1], twin)
    bias, std_error = [], []
    for temperature in (2.0, 0.5, 0.05):
        objective = GumbelSoftmaxELBO(num_particles=50, temperature=temperature)
        draws = torch.stack([flat_gradient(objective(pair, x.repeat(10, 1))[1], pair) for _ in range(60)])
        bias.append(draws.mean(0) - exact)
        std_error.append(draws.std(0) / len(draws) ** 0.5)
    assert bias[0].norm() > 1.5 * bias[1].norm()
    assert (bias[1] / std_error[1]).abs().max() > 4.5
    assert (bias[2] / std_error[2]).abs().max() < 4.5


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_all_that_is_learned(kind):
    pair = Linearly(kind)
    _, surrogate = GumbelSoftmaxELBO()(pair, torch.randn(8, 3))
    gradients = torch.autograd.grad(surrogate, list(pair.parameters()))
    assert all((gradient != 0).all() for gradient in gradients)


def test_temperature_changes_the_gradient_and_not_the_value():
    pair, x = Linearly("one-hot"), torch.randn(8, 3)
    found = []
    for temperature in (0.3, 3.0):
        pyro.set_rng_seed(1)
        value, surrogate = GumbelSoftmaxELBO(temperature=temperature)(pair, x)
        found.append((value, flat_gradient(surrogate, pair)))
    (cold, cold_gradient), (hot, hot_gradient) = found
    assert torch.equal(cold, hot)
    assert not torch.allclose(cold_gradient, hot_gradient, rtol=0.1)


def test_schedule_is_asked_at_each_step_and_for_its_end():
    pair, x, asked = Linearly("one-hot"), torch.randn(8, 3), []

    def temperature(step):
        asked.append(step)
        return max(0.5, 1 - step / 10)

    objective = GumbelSoftmaxELBO(temperature=temperature)
    fit(pair, x, objective, steps=3, progress=False)
    assert [step for step in asked if step < float("inf")] == [0, 1, 2]
    gradients = []
    for at in (objective, GumbelSoftmaxELBO(temperature=0.8)):
        pyro.set_rng_seed(1)
        gradients.append(flat_gradient(at(pair, x, 2)[1], pair))
    assert torch.equal(*gradients)


class Both(Pair):
    """A one-hot and a continuous site in the guide, and a component that only the model has."""

    def __init__(self):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
        self.encoder, self.loc = nn.Linear(1, 3), nn.Linear(1, 1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(2)))
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(3)))
            z = pyro.sample("z", dist.Normal(y @ self.weight, 1.0))
            pyro.sample("x", dist.Normal(z + self.shift[c], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder(x.unsqueeze(-1))))
            pyro.sample("z", dist.Normal(self.loc(x.unsqueeze(-1)).squeeze(-1) + y @ self.weight, 0.7))


@pytest.mark.usefixtures("float64")
def test_other_sites_are_followed_or_summed_out_as_ever():
    pair, x = Both(), torch.randn(20)
    with torch.no_grad():
        exact = EnumeratedELBO()(pair, x.repeat(2000))[0].reshape(2000, 20)
        value = GumbelSoftmaxELBO()(pair, x.repeat(2000))[0].reshape(2000, 20)
    z = (value.mean(0) - exact.mean(0)) / ((value.var(0) + exact.var(0)) / 2000).sqrt()
    assert z.abs().max() < 4.5
    assert (flat_gradient(GumbelSoftmaxELBO()(pair, x)[1], pair) != 0).all()


class InPart(Linearly):
    """Latents that some data points do not have, by a mask of Pyro's handler or of the distribution's."""

    def __init__(self, kind, by):
        super().__init__(kind)
        self.by = by

    def latents(self, logits):
        fn = dist.OneHotCategorical(logits=logits) if self.kind == "one-hot" else dist.Bernoulli(logits=logits)
        if self.by == "inside":
            fn = fn.mask(self.there if self.kind == "one-hot" else self.there[:, None])
        fn = fn if self.kind == "one-hot" else fn.to_event(1)
        with poutine.mask(mask=self.there if self.by == "handler" else True):
            return pyro.sample("z", fn.mask(self.there) if self.by == "outside" else fn)

    def model(self, x):
        self.there = x[:, 0] > 0
        with pyro.plate("data", len(x)):
            z = self.latents(self.prior.expand(len(x), -1)) * self.there[:, None]
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x):
        self.there = x[:, 0] > 0
        super().guide(x)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["one-hot", "vector"])
@pytest.mark.parametrize("by", ["outside", "inside"])
@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_a_masked_latent_is_not_there(kind, by, particles):
    """As with the handler's mask; and where no data point has it, the gradient is that of the data alone."""
    x, found = torch.randn(6, 3), []
    pairs = [InPart(kind, "handler"), InPart(kind, by)]
    pairs[1].load_state_dict(pairs[0].state_dict())
    for pair in pairs:
        pair.particles = particles
        pyro.set_rng_seed(1)
        value, surrogate = GumbelSoftmaxELBO(3)(pair, x)
        found.append((value, flat_gradient(surrogate, pair)))
    torch.testing.assert_close(found[0], found[1])
    value, surrogate = GumbelSoftmaxELBO(3)(pairs[1], -x.abs())
    torch.testing.assert_close(value, dist.Normal(0.0, 1.0).log_prob(x).sum(-1))
    assert not flat_gradient(surrogate, pairs[1]).any()


def test_a_pair_without_discrete_guide_sites_is_as_ever():
    pair, x = Summed(), torch.randn(3)
    torch.testing.assert_close(GumbelSoftmaxELBO()(pair, x)[0], pair.log_prob(x))


@pytest.mark.parametrize(
    ("pair", "x", "message"),
    [
        (lambda: GaussianMixture(3, 2), torch.zeros(4, 2), "'component': found Categorical, .*OneHotCategorical or B"),
        (Counts, torch.zeros(4), "'z': found Poisson, .*use VIMCO"),
    ],
)
def test_other_discrete_sites_are_refused_by_name(pair, x, message):
    with pytest.raises(ContractError, match=message):
        GumbelSoftmaxELBO()(pair(), x)
    assert _PYRO_STACK == []
