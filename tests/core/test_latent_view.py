"""The latent view against the weights it must agree with, and against integrals of the densities it gives."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO

import ppvae
from ppvae import ContractError, Pair
from ppvae.latent_view import LatentView

WITHOUT = (
    *("summed", "hidden Markov", "quantized", "two-level quantized", "no latents", "NICE", "RealNVP", "Glow"),
    *("continuous flow", "residual flow", "MADE", "PixelCNN", "Gated PixelCNN of codes"),
    *("diagonal BiLSTM", "mixture density RNN"),
)
CONTINUOUS = [n for n, m in ZOO.items() if n not in WITHOUT and (not m.drawn or m.drawn == {"z": "Mixture"})]


class Nested(Pair):
    """A latent whose support depends on the one before it, and one on the simplex."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Gamma(2.0, 1.0))
            below = pyro.sample("below", dist.Uniform(torch.zeros(()), top))
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Normal(below + shares[..., 0], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.LogNormal(x / 4, 0.5))
            pyro.sample("below", dist.Uniform(torch.zeros(()), top))
            pyro.sample("shares", dist.Dirichlet(torch.tensor([2.0, 1.0, 1.0])))


class Undrawn(dist.Normal):
    """A normal known by its density alone."""

    def rsample(self, sample_shape=()):
        raise NotImplementedError


class UndrawnPrior(Pair):
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Undrawn(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 3, 1.0))


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


@pytest.mark.parametrize("name", CONTINUOUS)
def test_its_densities_give_the_weights(name):
    pair, batch = ZOO[name].make()
    pair.eval()
    weights = pair.log_weights(batch, 5)
    view = LatentView(pair, batch)
    u = view.unconstrain(pair, batch, weights.latents)
    assert u.shape == (5, weights.log_w.shape[1], view.num_dims)
    log_start, log_joint = view.densities(pair, batch, u)
    torch.testing.assert_close(log_joint - log_start, weights.log_w)
    for site, values in view.latents(pair, batch, u).items():
        torch.testing.assert_close(values, weights.latents[site])


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if not name.startswith("dequantized")])
def test_both_starts_agree_on_the_joint(name):
    """Where the guide gives a density to what the prior draws: a dequantizer's is that of one cell."""
    pair, batch = ZOO[name].make()
    guide, prior = LatentView(pair, batch), LatentView(pair, batch, "prior")
    u = prior.draw(pair, batch, 4)
    again = guide.unconstrain(pair, batch, prior.latents(pair, batch, u))
    torch.testing.assert_close(guide.densities(pair, batch, again).log_joint, prior.densities(pair, batch, u).log_joint)


@pytest.mark.parametrize(
    "name", [n for n, m in ZOO.items() if m.exact and n in (*CONTINUOUS, "discrete above continuous")]
)
def test_weights_from_the_prior_have_the_mean_evidence(name, assert_mean):
    pair, batch = ZOO[name].make()
    view = LatentView(pair, batch, "prior")
    with torch.no_grad():
        log_start, log_joint = view.densities(pair, batch, view.draw(pair, batch, 20_000))
        assert_mean((log_joint - log_start - pair.log_prob(batch)).exp(), 1.0)


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_densities_integrate_to_one_where_supports_depend_on_latents(start):
    pair, x = Nested(), torch.tensor([0.5])
    view = LatentView(pair, x, start)
    assert view.num_dims == 4
    with torch.no_grad():
        u = view.draw(pair, x, 20_000)
        spread, center = 1.5 * u.std(0), u.mean(0)
        proposal = dist.StudentT(4.0, center, spread).to_event(1)
        points = proposal.sample((400_000,))
        ratio = (view.densities(pair, x, points).log_start - proposal.log_prob(points)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    assert ratio.std() / len(ratio) ** 0.5 < 0.01


def test_sites_name_the_entries():
    pair, batch = ZOO["hierarchy"].make()
    assert LatentView(pair, batch).sites == {"z1": slice(0, 2), "z2": slice(2, 4)}


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("mixture", "guide", "site 'component': found Categorical, which is discrete, expected a continuous latent"),
        ("counts", "prior", "site 'z': found Poisson, which is discrete"),
        ("summed", "guide", "found no continuous latent, expected at least one"),
        ("mixture", "prior", "found no continuous latent"),
    ],
)
def test_what_has_no_view_is_refused_by_name(name, start, message):
    pair, batch = ZOO[name].make()
    with pytest.raises(ContractError, match=message):
        LatentView(pair, batch, start)


def test_another_start_is_refused():
    pair, batch = ZOO["linear"].make()
    with pytest.raises(ValueError, match="start: found 'posterior', expected 'guide' or 'prior'"):
        LatentView(pair, batch, "posterior")


def test_a_prior_without_draws_is_no_start_and_evidence_needs_none():
    pair, x = UndrawnPrior(), torch.linspace(-1, 1, 5)
    with pytest.raises(ContractError, match="UndrawnPrior: found a distribution without draws in its model"):
        LatentView(pair, x, "prior")
    found, exact = ppvae.log_evidence(pair, x), dist.Normal(0.0, 2**0.5).log_prob(x)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()
