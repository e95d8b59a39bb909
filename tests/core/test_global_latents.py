"""Latents that all data points share: refused, or trained and measured at given values."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppvae import ContractError, Pair, log_evidence


def shared_scale():
    """w ~ LogNormal(0, 1) once; x_i ~ N(z_i, w^2), z_i ~ N(0, 1), with their guides."""

    def model(x):
        w = pyro.sample("w", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, w), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.3))
        pyro.sample("w", dist.LogNormal(loc, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8))

    return model, guide, torch.randn(5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("condition", "w"),
    [({"w": 0.7}, 0.7), ({"w": torch.tensor(2.0)}, 2.0), ("mean", torch.tensor(0.3 + 0.125).exp().item())],
)
def test_a_shared_latent_at_a_given_value_has_no_term(condition, w):
    """log p(x | w) in closed form, N(0, 1 + w^2)."""
    model, guide, x = shared_scale()
    pair = Pair.of(model, guide, x, condition=condition)
    assert set(pair.log_weights(x).latents) == {"z"}
    exact = dist.Normal(0.0, (1 + torch.as_tensor(w) ** 2).sqrt()).log_prob(x)
    found = log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()
    again = copy.deepcopy(pair).log_weights(x, 3).latents["z"]
    assert again.shape == (3, 5)


def test_a_shared_latent_at_the_guides_own_draw():
    model, guide, x = shared_scale()
    torch.manual_seed(0)
    pair = Pair.of(model, guide, x, condition="draw")
    (value,) = pair._values().values()
    assert value > 0
    assert torch.equal(pair._values()["w"], value)  # drawn once
    assert torch.equal(pair.to(torch.float64)._values()["w"], value.double())


@pytest.mark.parametrize(
    ("condition", "error", "words"),
    [
        (None, ContractError, r"guide site 'w'.*outside any plate.*condition=\{'w': value\}"),
        ({"v": 1.0}, ContractError, r"condition: found \['v'\], expected names of sites, of \['w', 'x', 'z'\]"),
        ({"w": torch.ones(3)}, ContractError, r"condition\['w'\]: found shape \[3\], expected the site's, \[\]"),
        ("median", ValueError, "condition: found 'median', expected a dict of values by site, or 'draw' or 'mean'"),
    ],
)
def test_bad_conditions(condition, error, words):
    model, guide, x = shared_scale()
    with pytest.raises(error, match=words):
        Pair.of(model, guide, x, condition=condition)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_rows", [2, 3, 4])
@pytest.mark.parametrize("condition", ["mean", "draw"])
def test_components_may_be_as_many_as_the_examples_rows(num_rows, condition):
    """Locations of three components are shared by all rows, whatever the number of these is."""
    means = torch.tensor([-2.0, 0.0, 3.0])

    def model(x):
        with pyro.plate("components", 3):
            locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            component = pyro.sample("component", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(locs[component], 1.0), obs=x)

    def guide(x):
        with pyro.plate("components", 3):
            pyro.sample("locs", dist.Normal(means, 0.1))

    x = torch.randn(6)
    pair = Pair.of(model, guide, x[:num_rows], condition=condition)
    locs = pair._values()["locs"]
    assert torch.equal(locs, means) == (condition == "mean")
    exact = (dist.Normal(locs, 1.0).log_prob(x[:, None]) - math.log(3)).logsumexp(-1)
    torch.testing.assert_close(log_evidence(pair, x, "exact", progress=False).estimate, exact)


@pytest.mark.parametrize(
    "q",
    [
        dist.Cauchy(0.0, 1.0),
        dist.HalfCauchy(1.0),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()),
    ],
    ids=["none", "infinite", "unknown"],
)
def test_a_guide_without_a_mean_is_named_and_the_remedies_work(q):
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    x, guide = torch.randn(4), lambda x: pyro.sample("w", q)
    with pytest.raises(ContractError, match=r"condition: found 'mean', but guide site 'w'.*no finite mean.*'draw'"):
        Pair.of(model, guide, x, condition="mean")
    for condition in ("draw", {"w": 0.5}):
        pair = Pair.of(model, guide, x, condition=condition)
        exact = dist.Normal(pair._values()["w"], 1.0).log_prob(x)
        torch.testing.assert_close(log_evidence(pair, x, "exact", progress=False).estimate.float(), exact)
