"""Simulated data against the distributions they are drawn from."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.zoo import ZOO

from ppvae import ContractError, Pair
from ppvae.models import LinearVAE
from ppvae.simulation import simulate


def test_data_and_latents_are_drawn_jointly(float64, assert_mean):
    pair = LinearVAE(num_features=4, num_latents=2)
    x, latents = simulate(pair, torch.zeros(20_000, 4))
    marginal, posterior = pair.marginal(), pair.posterior(x)
    assert_mean(x.detach(), pair.mean.detach())
    assert_mean((x[:, :, None] * x[:, None, :]).detach(), marginal.covariance_matrix.detach())
    whitened = torch.linalg.solve_triangular(
        posterior.scale_tril.expand(len(x), -1, -1), (latents["z"] - posterior.loc)[..., None], upper=False
    )[..., 0].detach()  # standard normal, whatever x
    assert_mean(whitened, 0.0)
    assert_mean(whitened[:, :, None] * whitened[:, None, :], torch.eye(2))
    assert_mean(whitened[:, :, None] * x[:, None, :], 0.0)


class Autoregressive(Pair):
    """`x_t ~ N(x_{t-1} + z + shift, 1)`: observes slices, and reads what it has observed before."""

    def model(self, x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            before = torch.zeros(())
            for t in range(x.shape[1]):
                pyro.sample(f"x{t}", dist.Normal(before + z + shift, 1.0), obs=x[:, t])
                before = x[:, t]

    def guide(self, x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 2.0))


def test_slices_are_filled_in_turn_and_covariates_kept(assert_mean):
    batch = {"x": torch.zeros(20_000, 3), "shift": torch.full((20_000,), 5.0)}
    found, latents = simulate(Autoregressive(), batch)
    assert torch.equal(found["shift"], batch["shift"])
    assert batch["x"].eq(0).all()  # untouched
    steps = found["x"].diff(dim=1, prepend=torch.zeros(20_000, 1)) - latents["z"][:, None]
    assert_mean(steps, 5.0)
    assert_mean((steps - 5).square(), 1.0)


@pytest.mark.parametrize("name", list(ZOO))
def test_simulated_data_fit_every_pair(name):
    pair, batch = ZOO[name].make()
    found, latents = simulate(pair, batch)
    assert pair.log_weights(found, 2).log_w.isfinite().all()
    pair.check(batch)
    assert set(latents) == set(pair.sample_joint(2, observed=False))


class Computed(Pair):
    def __init__(self, factor=False):
        super().__init__()
        self.factor = factor

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if self.factor:
                pyro.factor("x", -(x - z).square())
            else:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x / 255)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


@pytest.mark.parametrize("factor", [False, True])
def test_data_without_a_place_in_the_batch_are_refused(factor):
    with pytest.raises(
        ContractError, match="model site 'x': found observed data that the model computes from the batch"
    ):
        simulate(Computed(factor), torch.zeros(3))
