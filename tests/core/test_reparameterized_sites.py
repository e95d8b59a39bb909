"""What Pyro's `poutine.reparam` leaves of a site is stated by the model, as by `pyro.deterministic`: it is no data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, SplitReparam, UnitJacobianReparam
from support.functions import Functions

import ppvae
from ppvae import ContractError
from ppvae.simulation import simulate

pytestmark = pytest.mark.usefixtures("float64")
REPARAMETERIZED = {
    "loc and scale": (LocScaleReparam(centered=0.0), "z_decentered"),
    "unit Jacobian": (
        UnitJacobianReparam(dist.transforms.AffineTransform(0.0, -1.0), suffix="negative"),
        "z_negative",
    ),
}


def centered(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.fixture
def x():
    return torch.randn(5)


@pytest.fixture(params=["leading", "rows"])
def layout(request):
    return request.param


@pytest.fixture(params=REPARAMETERIZED)
def pair(request, layout, x):
    how, latent = REPARAMETERIZED[request.param]

    def guide(x):
        sign = -1 if latent == "z_negative" else 1
        with pyro.plate("data", len(x)):
            pyro.sample(latent, dist.Normal(sign * x / 2, 0.7))

    pair = Functions(poutine.reparam(centered, {"z": how}), guide)
    pair.check(x)
    pair.particles = layout
    return pair


def test_it_is_neither_sampled_nor_reconstructed_as_data(pair, x, assert_mean):
    assert pair.sample(7).shape == (7,)
    assert set(pair.sample_joint(7)) > {"z", "x"}  # as what is named is
    assert "z" not in pair.sample_joint(7, observed=False)
    assert pair.reconstruct(x).shape == (5,)
    joint = pair.sample_joint(20_000)
    assert_mean((joint["x"] - joint["z"]).square(), 1.0)


def test_it_is_exported_as_what_is_named(pair, x):
    found = ppvae.to_arviz(pair, x, num_samples=6, seed=0, progress=False)
    for group in ("posterior_predictive", "prior_predictive", "log_likelihood", "observed_data"):
        assert set(found[group].data_vars) == {"x"}, group
    for group in ("posterior", "prior"):
        assert "z" in found[group].data_vars, group
        assert found[group]["z"].shape == (1, 6, 5)


def test_data_are_simulated_past_it_and_certify_the_evidence(pair, x, assert_mean):
    simulated, latents = simulate(pair, torch.zeros(20_000))
    assert "z" not in latents
    assert_mean(simulated.square(), 2.0)
    annealing = ppvae.AIS(8, num_temperatures=20)
    found = ppvae.log_evidence(pair, x, "bdmc", annealing=annealing, seed=0, progress=False)
    assert ((found.estimate - dist.Normal(0.0, 2**0.5).log_prob(x)).abs() < 5 * found.std_error + 0.05).all()
    assert found.kind == "density of 1 numbers"


def test_a_density_that_is_left_over_counts_and_is_not_simulated(layout):
    """The parts of a split site have none of their own."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            for i in range(2):
                pyro.sample(f"z_split_{i}", dist.Normal(x[:, i : i + 1] / 2, 0.5**0.5).to_event(1))

    pair, x = Functions(poutine.reparam(model, {"z": SplitReparam([1, 1], dim=-1)}), guide), torch.randn(3, 2)
    pair.check(x)
    pair.particles = layout
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(pair.log_weights(x, 4).log_w, exact.expand(4, -1))
    assert pair.reconstruct(x).shape == (3, 2)
    with pytest.raises((ContractError, NotImplementedError)):
        simulate(pair, x)
