"""Latents on which a site depends by ways that Pyro does not follow: no closed form is taken where none is valid."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae import ELBO, Pair, fit_many
from ppvae.inference import separable_sites

pytestmark = pytest.mark.usefixtures("float64")
X = torch.tensor([-0.7, 0.4, 1.9], dtype=torch.float64)


def as_it_is(z):
    return z


def into_a_part(z):
    both = torch.zeros(*z.shape, 2)
    both[..., 0] = z
    return both.sum(-1)


def by_copying(z):
    return torch.zeros_like(z).copy_(z)


def by_its_sign(z):
    signs = torch.zeros(z.shape)
    signs[z > 0] = 1.0
    return signs


def through_vmap(z):
    return torch.func.vmap(lambda each: 1.0 * each)(z)


def through_numpy(z):
    return torch.as_tensor(1.0 * z.detach().numpy())


WAYS = [as_it_is, into_a_part, by_copying, by_its_sign, through_vmap, through_numpy]


class Layers(Pair):
    """p(z2) p(z1 | z2) p(x | z1); the guide draws z1, and then z2 given z1."""

    def __init__(self, in_model=as_it_is, in_guide=as_it_is):
        super().__init__()
        self.slope, self.ways = nn.Parameter(torch.tensor(0.3)), (in_model, in_guide)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.ways[0](z2), 0.5))
            pyro.sample("x", dist.Normal(z1, 0.8), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.slope * x, 0.5))
            pyro.sample("z2", dist.Normal(self.ways[1](z1), 0.5))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", ["in_model", "in_guide"])
def test_the_elbo_is_the_mean_log_weight(role, way, assert_mean):
    """A closed-form KL of z1 would give a bound a nat too low."""
    pair = Layers(**{role: way})
    assert separable_sites(pair, X) == {"z2"}
    with torch.no_grad():
        found = ELBO(5)(pair, X.repeat(2000))[0] - pair.log_weights(X.repeat(2000), 5).log_w.mean(0)
    assert_mean(found, 0.0, k=4.5)


class Apart(Layers):
    """Its guide's latents are independent."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.slope * x, 0.5))
            pyro.sample("z2", dist.Normal(self.ways[1](x), 0.5))


@pytest.mark.parametrize("way", WAYS)
def test_independent_latents_keep_their_closed_forms(way):
    assert separable_sites(Apart(way, way), X) == {"z1", "z2"}


@pytest.mark.parametrize("make", [Layers, Apart])
def test_many_runs_ask_before_they_are_traced(make):
    """As what is asked depends on values. The bound of both runs is that of plain log weights."""
    x = X.repeat(1000)
    runs = fit_many(make, x, seeds=2, steps=1, batch_size=len(x), lr=0.0, progress=False)
    log_w = make().log_weights(x, 20).log_w
    noise = log_w[0].std() / len(x) ** 0.5
    assert abs(runs.fit.history["bound"][0] - log_w.mean()) < 4.5 * noise
