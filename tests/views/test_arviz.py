"""Export to ArviZ, whichever version is installed: groups, dimensions, values, round trip."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from ppvae import Pair
from ppvae.models import LinearVAE
from ppvae.views.arviz_export import as_arviz, import_arviz, labeled, to_arviz

GROUPS = {
    "posterior",
    "sample_stats",
    "log_likelihood",
    "observed_data",
    "posterior_predictive",
    "prior",
    "prior_predictive",
}


class Mixed(Pair):
    """A discrete site that the guide lacks, a latent below it, and a real, a binary and an integer observation."""

    def model(self, x, flag, count):
        with pyro.plate("patient", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])))
            z = pyro.sample("z", dist.Normal(torch.tensor([-5.0, 5.0])[c], 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * torch.ones(3), 1.0).to_event(1), obs=x)
            pyro.sample("flag", dist.Bernoulli(logits=z), obs=flag.float())
            pyro.sample("count", dist.Poisson((4.0 * c + 1.0).expand(c.shape)), obs=count)

    def guide(self, x, flag, count):
        with pyro.plate("patient", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))


def batch():
    return {
        "x": torch.tensor([[-5.0, -4.0, -5.5], [5.0, 4.0, 6.0]]),
        "flag": torch.tensor([False, True]),
        "count": torch.tensor([0, 6]),
    }


@pytest.fixture
def pair():
    return LinearVAE(num_features=5, num_latents=2).fit_guide()


def group(container, name):
    """A group as a dataset: attributes of InferenceData, children of DataTree."""
    found = container[name]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


def test_groups_dimensions_and_coordinates(pair):
    found = to_arviz(
        [pair, pair],
        torch.randn(3, 5),
        num_samples=4,
        dims={"z": ["factor"]},
        coords={"factor": ["size", "slant"], "data": [10, 11, 12], "chain": ["first", "second"]},
    )
    assert all(group(found, name).sizes for name in GROUPS)
    posterior = group(found, "posterior")
    assert posterior.z.dims == ("chain", "draw", "data", "factor")
    assert posterior.z.shape == (2, 4, 3, 2)
    assert posterior.z.sel(chain="second", data=12, factor="slant").shape == (4,)
    assert set(group(found, "sample_stats")) == {"log_p", "log_q", "log_w"}
    assert group(found, "log_likelihood").x.dims == ("chain", "draw", "data")
    assert group(found, "observed_data").x.dims == ("data", "x_dim_0")
    assert group(found, "prior").z.dims == ("chain", "draw", "data", "factor")
    assert group(found, "prior_predictive").x.dims == ("chain", "draw", "data", "x_dim_0")
    assert group(found, "posterior_predictive").x.dims == ("chain", "draw", "data", "x_dim_0")


def test_densities_are_those_of_the_draws(pair):
    x = torch.randn(3, 5)
    found = to_arviz(pair, x, num_samples=4)
    z = torch.as_tensor(group(found, "posterior").z.values)[0]
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_likelihood = dist.Normal(z @ pair.weight.T + pair.mean, pair.log_sigma.exp()).log_prob(x).sum(-1)
    stats = group(found, "sample_stats")
    np.testing.assert_allclose(group(found, "log_likelihood").x.values[0], log_likelihood.detach(), rtol=1e-4)
    np.testing.assert_allclose(stats.log_p.values[0], (log_prior + log_likelihood).detach(), rtol=1e-4)
    np.testing.assert_allclose(stats.log_w, stats.log_p - stats.log_q, rtol=1e-4)
    np.testing.assert_array_equal(group(found, "observed_data").x, x)


def test_predictive_draws_follow_the_exact_distributions(assert_mean):
    pair = LinearVAE(num_features=5, num_latents=2, guide="exact")
    x = torch.randn(2, 5)
    found = to_arviz(pair, x, num_samples=4000)
    replicates = torch.as_tensor(group(found, "posterior_predictive").x.values)[0]
    prior = torch.as_tensor(group(found, "prior_predictive").x.values)[0]
    assert_mean(replicates, (pair.posterior(x).mean @ pair.weight.T + pair.mean).detach())
    assert_mean(prior.square(), pair.marginal().variance.detach())
    assert not torch.equal(replicates[:, 0], replicates[:, 1])


def test_prior_draws_belong_together(pair):
    pair.log_sigma.data.fill_(-10.0)
    found = to_arviz(pair, torch.randn(2, 5), num_samples=10)
    z = torch.as_tensor(group(found, "prior").z.values)
    np.testing.assert_allclose(group(found, "prior_predictive").x, (z @ pair.weight.T).detach(), atol=1e-3)


class Shifted(Pair):
    """x ~ N(z + shift, 0.1), where the shift is a covariate."""

    def model(self, x, shift, beta):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(beta * (z + shift), 0.1), obs=x)

    def guide(self, x, shift, beta):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - shift, 0.1))


@pytest.mark.parametrize("layout", ["leading", "rows"])
def test_covariates_are_those_of_each_data_point(layout, assert_mean):
    pair, x, shift = Shifted(), torch.randn(3), torch.tensor([-10.0, 0.0, 10.0])
    pair.particles = layout
    found = to_arviz(pair, {"x": x, "shift": shift, "beta": 1.0}, num_samples=1000)
    assert group(found, "constant_data")["shift"].dims == ("data",)
    assert list(group(found, "constant_data")) == ["shift"]
    np.testing.assert_array_equal(group(found, "constant_data")["shift"], shift)
    drawn = torch.as_tensor(group(found, "prior_predictive").x.values)[0]
    assert_mean(drawn, shift)
    assert_mean((drawn - shift).square(), torch.full((3,), 1.01))
    z = torch.as_tensor(group(found, "prior").z.values)[0]
    assert ((drawn - shift - z).abs() < 6 * 0.1).all()


class Named(Shifted):
    """The same, which names what it computes."""

    def model(self, x, shift, beta):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            moved = pyro.deterministic("moved", torch.stack([z, z + shift], -1), event_dim=1)
            pyro.sample("x", dist.Normal(beta * moved[..., 1], 0.1), obs=x)


def test_what_is_computed_is_in_both_groups_and_has_names():
    x, shift = torch.randn(3), torch.tensor([-10.0, 0.0, 10.0])
    dims = {"moved": ["before_after"]}
    found = to_arviz(Named(), {"x": x, "shift": shift, "beta": 1.0}, num_samples=5, dims=dims)
    for name in ("posterior", "prior"):
        of = group(found, name)
        assert of.moved.dims == ("chain", "draw", "data", "before_after")
        np.testing.assert_allclose(of.moved[..., 0], of.z)
        np.testing.assert_allclose(of.moved[..., 1], of.z + shift.numpy(), rtol=1e-5)


def test_no_group_of_constants_without_any(pair):
    assert "constant_data" not in str(to_arviz(pair, torch.randn(3, 5), num_samples=2))


def test_discrete_sites_that_the_guide_lacks_are_drawn_from_their_posterior():
    found = to_arviz(Mixed(), batch(), num_samples=50)
    posterior = group(found, "posterior")
    assert posterior.c.dims == ("chain", "draw", "patient")
    assert (posterior.c.values == [0, 1]).all()  # no prior, which says 0.4 and 0.6, would
    z = torch.as_tensor(posterior.z.values)
    likelihood = group(found, "log_likelihood")
    assert set(likelihood) == {"x", "flag", "count"}
    np.testing.assert_allclose(likelihood.flag, dist.Bernoulli(logits=z).log_prob(torch.tensor([0.0, 1.0])), rtol=1e-4)
    assert (group(found, "posterior_predictive").x.mean(("draw", "x_dim_0")).values * [-1, 1] > 3).all()


def test_netcdf_round_trip(tmp_path):
    found = to_arviz(Mixed(), batch(), num_samples=3)
    found.to_netcdf(tmp_path / "run.nc")
    again = import_arviz().from_netcdf(tmp_path / "run.nc")
    for name in GROUPS:
        xr.testing.assert_equal(group(again, name), group(found, name))
    assert group(again, "observed_data")["count"].dtype == np.int64


class AnyNames(Pair):
    """`z ~ N(0, I)`, `x ~ N(z, I)`, by any names."""

    def __init__(self, latent="z", observed="x", plate="data"):
        super().__init__()
        self.names = latent, observed, plate

    def model(self, x, **covariates):
        latent, observed, plate = self.names
        with pyro.plate(plate, len(x)):
            z = pyro.sample(latent, dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(observed, dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, **covariates):
        latent, _, plate = self.names
        with pyro.plate(plate, len(x)):
            pyro.sample(latent, dist.Normal(x / 2, 0.7).to_event(1))


def test_names_of_scopes_can_be_written(tmp_path):
    found = to_arviz(AnyNames("upper/z", "lower/x", "of/rows"), torch.zeros(3, 2), num_samples=4)
    assert group(found, "posterior")["upper.z"].dims == ("chain", "draw", "of.rows", "upper.z_dim_0")
    found.to_netcdf(tmp_path / "named.nc")
    read = xr.open_dataset(tmp_path / "named.nc", group="observed_data")
    assert np.array_equal(read["lower.x"].values, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("pair", "data", "dims", "found"),
    [
        (AnyNames(latent="draw"), torch.zeros(3, 2), {}, "posterior: .* of 'draw'"),
        (AnyNames(observed="chain"), torch.zeros(3, 2), {}, "log_likelihood: .* of 'chain'"),
        (AnyNames(plate="draw"), torch.zeros(3, 2), {}, "posterior: .* of 'z'"),
        (AnyNames(), {"x": torch.zeros(3, 2), "data": torch.zeros(3)}, {}, "constant_data: .* of 'data'"),
        (AnyNames(), torch.zeros(3, 2), {"z": ["z"]}, "posterior: .* of 'z'"),
        (AnyNames(), torch.zeros(3, 2), {"z": ["chain"]}, "posterior: .* of 'z'"),
    ],
)
def test_a_name_for_two_things_is_refused(pair, data, dims, found):
    with pytest.raises(ValueError, match=found):
        to_arviz(pair, data, num_samples=2, dims=dims)


def test_arviz_reads_it(pair):
    arviz = import_arviz()
    found = to_arviz([pair, pair], torch.randn(3, 5), num_samples=100)
    assert len(arviz.summary(found, var_names=["z"])) == 6
    assert (arviz.ess(found, var_names=["z"]).z > 100).all()


def test_a_seed_reproduces_and_leaves_the_callers_generator(pair):
    state = torch.get_rng_state()
    first, second = (to_arviz([pair, pair], torch.zeros(3, 5), num_samples=2, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name in GROUPS:
        xr.testing.assert_equal(group(first, name), group(second, name))
    z = group(first, "posterior").z
    assert not np.array_equal(z[0], z[1])


def test_many_rows_are_drawn_in_pieces(pair):
    assert group(to_arviz(pair, torch.randn(3000, 5), num_samples=3), "posterior").z.shape == (1, 3, 3000, 2)


def test_adapter_needs_nothing_but_arrays():
    groups = {
        "posterior": {"z": np.zeros((2, 5, 3, 4))},
        "prior": {"z": np.zeros((2, 5, 3, 4))},
        "observed_data": {"x": np.arange(3)},
    }
    found = as_arviz(labeled(groups, "row", dims={"z": ["factor"]}, coords={"row": list("abc")}))
    assert group(found, "posterior").z.dims == ("chain", "draw", "row", "factor")
    assert group(found, "prior").z.dims == ("chain", "draw", "row", "factor")
    assert list(group(found, "observed_data").row.values) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, x: to_arviz(pair, x, num_samples=0), "num_samples: found 0"),
        (lambda pair, x: to_arviz([], x), "number of pairs: found 0"),
        (
            lambda pair, x: to_arviz(pair, x, dims={"z": ["a", "b"]}),
            r"dims\['z'\]: found \['a', 'b'\], expected 1 names",
        ),
        (
            lambda pair, x: to_arviz(pair, x, dims={"Z": ["factor"]}),
            r"dims: found 'Z', expected .*; did you mean 'z'\?",
        ),
        (lambda pair, x: to_arviz(pair, x, coords={"dat": list("abc")}), "coords: found 'dat'.*did you mean 'data'"),
        (lambda pair, x: to_arviz([pair, LinearVAE(5, 3)], x), "pair 1: found sites .* in group 'posterior'"),
    ],
)
def test_bad_arguments_are_named(pair, call, message):
    with pytest.raises(ValueError, match=message):
        call(pair, torch.randn(3, 5))


class Cascade(Pair):
    """`y ~ N(3 x, 0.1)`, where x is data, too, and a covariate shifts x."""

    def model(self, x, y, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)
            pyro.sample("y", dist.Normal(3 * x, 0.1), obs=y)

    def guide(self, x, y, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - shift) / 2, 0.7))


@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_predictions_read_the_data_that_they_predict(particles, assert_mean):
    pair, shift = Cascade(), torch.arange(4.0)
    data = (torch.randn(4), torch.randn(4), shift)
    pair.check(data)
    pair.particles = particles
    found = to_arviz(pair, data, num_samples=2000, seed=0, progress=False)
    for predicted, latent in (("prior_predictive", "prior"), ("posterior_predictive", "posterior")):
        x, y, z = (
            torch.tensor(found[group][name].values[0])
            for group, name in ((predicted, "x"), (predicted, "y"), (latent, "z"))
        )
        assert_mean((y - 3 * x).square(), 0.01)
        assert_mean(x - z - shift, 0.0)  # the covariate is each data point's own
    np.testing.assert_array_equal(found["observed_data"]["x"].values, data[0].numpy())
    np.testing.assert_array_equal(found["constant_data"]["2"].values, shift.numpy())


class Ending(Pair):
    """`z1 ~ N(0, 1)`, `z2 ~ N(z1, 1)`, `x_t ~ N(z_t, 0.5)`, with z2 moved by 10 c: the second step,
    and c, are masked where a row has ended; entries of the first step are masked for themselves."""

    def model(self, x, ended, seen):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=~ended):
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.25, 0.75])))
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).mask(seen).to_event(1))
            pyro.sample("x1", dist.Normal(z1, 0.5).mask(seen).to_event(1), obs=x[..., :2])
            with pyro.poutine.mask(mask=~ended):
                z2 = pyro.sample("z2", dist.Normal(z1[..., 0] + 10.0 * c, 1.0))
                pyro.sample("x2", dist.Normal(z2, 0.5), obs=x[..., 2])

    def guide(self, x, ended, seen):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=~ended):
                pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("z1", dist.Normal(x[..., :2], 0.3).mask(seen).to_event(1))
            with pyro.poutine.mask(mask=~ended):
                pyro.sample("z2", dist.Normal(torch.full((len(x),), 50.0), 0.1))


@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_what_is_masked_is_not_there(particles, assert_mean):
    """In posterior, prior and data it is NaN; what is drawn of it is the model's forecast, not what the guide draws."""
    pair = Ending()
    pair.particles = particles
    x, ended = torch.tensor([[1.0, 2.0, 3.0]] * 3), torch.tensor([False, True, True])
    seen = torch.tensor([[True, True], [True, False], [True, True]])
    found = to_arviz(pair, {"x": x, "ended": ended, "seen": seen}, num_samples=4000, seed=0)
    for name in ("posterior", "prior"):
        values = group(found, name)
        for site in ("c", "z2"):
            assert np.isnan(values[site].values).all((0, 1)).tolist() == ended.tolist()
        assert np.isnan(values["z1"].values).all((0, 1)).tolist() == (~seen).tolist()
        assert np.isnan(values["z1"].values).any((0, 1)).tolist() == (~seen).tolist()
    observed = group(found, "observed_data")
    assert np.isnan(observed["x1"].values).tolist() == (~seen).tolist()
    assert np.isnan(observed["x2"].values).tolist() == ended.tolist()
    assert group(found, "log_likelihood")["x2"].values[:, :, 1:].tolist() == [[[0.0, 0.0]] * 4000]
    drawn = group(found, "posterior_predictive")
    assert_mean(torch.tensor(drawn["x2"].values[0]), torch.tensor([50.0, 8.5, 8.5]))
    assert_mean(torch.tensor(drawn["x1"].values[0]), torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0]]))
    second = torch.tensor(drawn["x2"].values[0, :, 2])
    variance = 0.09 + 1 + 0.25 + 100 * 0.25 * 0.75
    assert_mean((second - 8.5).square(), torch.tensor(variance))
