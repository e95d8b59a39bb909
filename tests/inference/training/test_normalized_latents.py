"""Batch norm as a transform of latents is not trained; its measurements, and that of data, stay."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn
from torch.distributions import AffineTransform

import ppvae
from ppvae import ContractError, Pair, Trainer

pytestmark = pytest.mark.usefixtures("float64")
X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLACES = {"guide": "guide site 'z'", "inverse": "guide site 'z'", "prior": "model site 'z'", "data": None}


class Normalized(Pair):
    """`z ~ N(0, I)`, `x ~ N(z, I)`, with batch norm in one place; `fixed` puts the same affine map there instead."""

    def __init__(self, where, fixed=False):
        super().__init__()
        self.where, self.loc = where, nn.Parameter(torch.zeros(2))
        self.norm = transforms.batchnorm(2)
        self.norm.moving_mean += 0.3
        self.norm.moving_variance *= 2.0
        self.fixed = fixed

    def placed(self, where, loc):
        fn = dist.Normal(loc, 1.0).to_event(1)
        if where != self.where and (where, self.where) != ("guide", "inverse"):
            return fn
        if self.fixed:
            scale = (self.norm.moving_variance + self.norm.epsilon).sqrt() / self.norm.constrained_gamma.detach()
            affine = AffineTransform(self.norm.moving_mean, scale, event_dim=1)
            return dist.TransformedDistribution(fn, [affine.inv if self.where == "inverse" else affine])
        return dist.TransformedDistribution(fn, [self.norm.inv if self.where == "inverse" else self.norm])

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.placed("prior", torch.zeros(2)))
            pyro.sample("x", self.placed("data", z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.placed("guide", x / 2 + self.loc))


@pytest.mark.parametrize("where", [where for where, site in PLACES.items() if site])
@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_latents_are_refused_in_training(where, particles):
    pair = Normalized(where)
    pair.particles = particles
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    match = f"{PLACES[where]}: found the transform BatchNorm.*leave it out, or scale and shift by parameters"
    for objective in (ppvae.ELBO(), ppvae.IWAE(4)):
        with pytest.raises(ContractError, match=match):
            ppvae.fit(pair, X, objective, epochs=1, progress=False)
        with pytest.raises(ContractError, match=match):
            Trainer(pair, objective).step(X)
    for name, t in pair.state_dict().items():
        assert torch.equal(t, before[name])


@pytest.mark.parametrize("where", PLACES)
def test_what_is_measured_is_that_of_the_affine_map(where):
    found = []
    for fixed in (False, True):
        torch.manual_seed(0)
        found.append(Normalized(where, fixed).eval().log_weights(X, 3).log_w.detach())
    torch.testing.assert_close(*found)


def test_data_are_normalized_in_training():
    pair = Normalized("data")
    ppvae.fit(pair, X, epochs=2, batch_size=10, progress=False)
    assert (pair.norm.moving_mean != 0.3).all()


def test_several_pairs_at_once_are_as_one():
    with pytest.raises(ContractError, match="guide site 'z': found the transform BatchNorm"):
        ppvae.fit_many(lambda: Normalized("guide"), X, seeds=2, epochs=1, progress=False)
    runs = ppvae.fit_many(lambda: Normalized("data"), X, seeds=2, epochs=1, batch_size=10, progress=False)
    assert all((pair.norm.moving_mean != 0.3).all() for pair in runs.pairs)
