"""Draws that come closer to the posterior than the guide's: held against the exact one, where the guide's own fail."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from support.zoo_pairs import Components, Labeled, Summed
from torch import nn

from ppvae import AIS, ContractError, EvidenceUndefined, Pair
from ppvae.inference.ledger.posteriors import DRAWN_BY, systematic
from ppvae.models import Autoencoder, Gaussian, LinearVAE, MarkovHVAE
from ppvae.views.arviz_export import import_arviz, to_arviz

ANNEALING = AIS(num_temperatures=40, num_leapfrog=3)
quiet = {"seed": 0, "progress": False}


def group(container, name):
    found = container[name]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


def export(pair, x, posterior, num_samples, annealing=ANNEALING, **others):
    annealing = annealing if posterior == "annealed" else None
    return to_arviz(pair, x, posterior=posterior, num_samples=num_samples, annealing=annealing, **quiet, **others)


def draws_of(container, name="z"):
    return torch.as_tensor(group(container, "posterior")[name].values)[0]


def off_the_mark():
    """A linear VAE with correlated latents, whose diagonal guide is half as wide again, and off the mean."""
    pair = LinearVAE(num_features=6, num_latents=2).fit_guide()
    pair.posterior_scale.data += 0.5
    pair.encoder.bias.data += 0.3
    return pair


def largest_z(draws, exact):
    """Errors of mean and covariance in standard errors, over all data points together: the largest of them."""
    centered = draws - exact.mean
    found = torch.cat(
        [centered, (centered[..., :, None] * centered[..., None, :] - exact.covariance_matrix).flatten(2)], 2
    )
    by_draw = found.mean(1)  # data points are independent, so this has the whole error
    return (by_draw.mean(0) / (by_draw.std(0) / len(by_draw) ** 0.5)).abs().max().item()


@pytest.mark.parametrize("posterior", ["resampled", "annealed"])
def test_draws_have_the_exact_posteriors_mean_and_covariance(posterior, float64):
    pair = off_the_mark()
    x = pair.sample(10)
    exact = pair.posterior(x)
    assert largest_z(draws_of(export(pair, x, "guide", 400)), exact) > 8
    found = export(pair, x, posterior, 400)
    assert largest_z(draws_of(found), exact) < 4
    stats = group(found, "sample_stats")
    assert (stats.ess > 200).all()
    if posterior == "resampled":
        assert (stats.khat < 0.7).all()


@pytest.mark.slow(4)
def test_refined_draws_lack_what_amortization_costs(float64):
    """An encoder off by an offset: the best diagonal guide has the exact mean, and is too narrow."""
    pair = off_the_mark()
    x = pair.sample(20)
    mean = pair.posterior(x).mean.detach()
    error = {kind: (draws_of(export(pair, x, kind, 400)).mean(0) - mean).abs().mean() for kind in ("guide", "refined")}
    assert error["guide"] > 0.25
    assert error["refined"] < 0.06
    best = LinearVAE(6, 2)
    best.load_state_dict(pair.state_dict())
    found = draws_of(export(pair, x, "refined", 400)).std(0).mean(0)
    torch.testing.assert_close(found, best.fit_guide()._q(x).base_dist.scale[0].detach(), rtol=0.08, atol=0)


@pytest.mark.parametrize("posterior", DRAWN_BY)
def test_densities_are_those_of_the_draws(posterior):
    """And log q is the amortized guide's, whoever drew."""
    pair = off_the_mark()
    x = pair.sample(3)
    found = export(pair, x, posterior, 20)
    z, stats = draws_of(found), group(found, "sample_stats")
    likelihood = dist.Normal(z @ pair.weight.T + pair.mean, pair.log_sigma.exp()).log_prob(x).sum(-1)
    log_p = (dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + likelihood).detach()
    np.testing.assert_allclose(stats.log_p[0], log_p, rtol=1e-4)
    np.testing.assert_allclose(stats.log_q[0], pair._q(x).log_prob(z).detach(), rtol=1e-3)
    np.testing.assert_allclose(stats.log_w, stats.log_p - stats.log_q, rtol=1e-5)
    np.testing.assert_allclose(group(found, "log_likelihood").x[0], likelihood.detach(), rtol=1e-4)
    assert group(found, "posterior_predictive").x.shape == (1, 20, 3, 6)


@pytest.mark.parametrize(
    ("posterior", "quality"),
    [
        ("guide", set()),
        ("resampled", {"khat", "ess"}),
        pytest.param("refined", set(), marks=pytest.mark.slow(17)),
        ("annealed", {"ess"}),
    ],
)
def test_quality_is_per_chain_and_data_point(posterior, quality, tmp_path):
    pairs = [off_the_mark(), off_the_mark()]
    found = export(pairs, pairs[0].sample(3), posterior, 4, coords={"data": list("abc"), "chain": ["first", "second"]})
    stats = group(found, "sample_stats")
    assert set(stats) == {"log_p", "log_q", "log_w"} | quality
    for name in quality:
        assert stats[name].dims == ("chain", "data")
        assert list(stats[name]["data"].values) == list("abc")
    assert stats.log_w.dims == ("chain", "draw", "data")
    found.to_netcdf(tmp_path / "run.nc")
    xr.testing.assert_equal(group(import_arviz().from_netcdf(tmp_path / "run.nc"), "sample_stats"), stats)


@pytest.mark.parametrize("posterior", DRAWN_BY)
def test_a_seed_reproduces_and_leaves_the_callers_generator(posterior):
    pair = off_the_mark()
    x, state = pair.sample(3), torch.get_rng_state()
    first, second = (export(pair, x, posterior, 4, AIS(num_temperatures=5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    xr.testing.assert_equal(group(first, "posterior"), group(second, "posterior"))


@pytest.mark.parametrize("posterior", DRAWN_BY)
def test_discrete_sites_that_the_guide_lacks_are_drawn_too(posterior):
    pair = Components(tied=True)
    x = 3 * torch.randn(5)
    found = group(export(pair, x, posterior, 6), "posterior")
    assert found.c.dims == found.z.dims == ("chain", "draw", "data")
    assert set(np.unique(found.c)) <= {0, 1, 2}


@pytest.mark.parametrize("posterior", ["guide", "resampled", "refined"])
def test_discrete_sites_of_the_guide_are_drawn(posterior):
    found = group(export(Components(guided=True), torch.randn(5), posterior, 6), "posterior")
    assert found.c.shape == found.z.shape == (1, 6, 5)


def test_resampled_mixture_components_have_their_exact_probabilities(assert_mean, float64):
    """A guide that names each component at random, on data that tell them apart."""
    pair = Components(guided=True, tied=True)
    pair.offsets.data = pair.means.detach() / 2  # so that the weights are not too uneven
    x = 2 * torch.randn(30)
    marginal = dist.Normal(pair.means + pair.shift, 2**0.5).log_prob(x.unsqueeze(-1))
    exact = (pair.logits.log_softmax(0) + marginal).softmax(-1).detach()
    chosen = torch.nn.functional.one_hot(draws_of(export(pair, x, "resampled", 1000), "c").long(), 3).double()
    assert_mean(chosen.mean(1), exact.mean(0))
    guided = torch.nn.functional.one_hot(draws_of(export(pair, x, "guide", 1000), "c").long(), 3).double().mean(1)
    assert ((guided.mean(0) - exact.mean(0)) / (guided.std(0) / 1000**0.5)).abs().max() > 8


@pytest.mark.parametrize("posterior", DRAWN_BY)
def test_batches_of_several_tensors(posterior):
    batch = {"x": torch.randn(4, 3), "label": torch.tensor([0, 1, 1, 0])}
    pair = Labeled()
    pair.check(batch)
    assert draws_of(export(pair, batch, posterior, 5)).shape == (5, 4, 2)


@pytest.mark.slow(17)
def test_chunks_of_data_and_draws_join_up(monkeypatch, float64):
    """Each data point's draws stay with it, however small the chunks are."""
    monkeypatch.setattr("ppvae.inference.runtime.chunks.CPU_ELEMENTS", 2000)
    pair = off_the_mark()
    x = 10.0 * torch.arange(25)[:, None] * torch.ones(6)
    mean, spread = pair.posterior(x).mean.detach(), 6 * pair.posterior(x).variance.sqrt().max().item()
    for posterior in DRAWN_BY:
        z = draws_of(export(pair, x, posterior, 30, AIS(num_temperatures=20)))
        assert (z - mean).abs().max() < spread, posterior


@pytest.mark.slow(4)
def test_chains_find_the_mode_that_the_guide_leaves_out():
    class Bimodal(Pair):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(1.0, 0.15).expand([len(x)]))

    found = export(Bimodal(), torch.ones(4), "annealed", 200, AIS(num_temperatures=100, start="prior"))
    below = (draws_of(found) < 0).float().mean(0)
    assert ((below - 0.5).abs() < 0.2).all()
    assert (draws_of(export(Bimodal(), torch.ones(4), "resampled", 200)) > 0).all()


def test_systematic_resampling_takes_each_its_share():
    probability = torch.rand(50, 200, dtype=torch.float64)
    probability[::3] = 0.0
    probability /= probability.sum(0)
    chosen = systematic(probability, 70)
    assert chosen.shape == (70, 200)
    counts = torch.stack([(chosen == k).sum(0) for k in range(50)])
    assert ((counts - 70 * probability).abs() < 1).all()
    assert (counts[::3] == 0).all()
    z = (counts - 70 * probability).mean(1)[1::3] * math.sqrt(200 / 0.25)
    assert z.abs().max() < 4  # a count's variance is at most 1/4
    assert (chosen.sort(0).values != chosen).any(0).all()


@pytest.mark.parametrize(
    ("pair", "posterior", "settings", "error", "message"),
    [
        (lambda: LinearVAE(3, 2), "exact", None, ValueError, "posterior: found 'exact', expected one of .'guide'"),
        (lambda: LinearVAE(3, 2), "guide", AIS(), ValueError, "annealing: found AIS.* for posterior='guide'"),
        (lambda: Components(guided=True), "annealed", None, ContractError, "site 'c': found Categorical, .* discrete"),
        (
            lambda: Autoencoder(nn.Linear(3, 2), Gaussian(nn.Linear(2, 3), sigma=1.0)),
            "resampled",
            None,
            EvidenceUndefined,
            "Autoencoder has no evidence",
        ),
    ],
)
def test_what_does_not_apply_is_refused_by_name(pair, posterior, settings, error, message):
    pair = pair()
    x = torch.randn(4) if isinstance(pair, Components) else torch.rand(4, 3)
    with pytest.raises(error, match=message):
        to_arviz(pair, x, posterior=posterior, annealing=settings, num_samples=2, progress=False)


def test_nothing_to_refine_is_refused_by_name():
    class Rigid(dist.Normal):
        arg_constraints = {}  # noqa: RUF012

    class Fixed(LinearVAE):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", Rigid(torch.zeros(len(x), 2), 1.0).to_event(1))

    with pytest.raises(ContractError, match=r"the guide of Fixed .site 'z': Rigid has no argument that can be moved"):
        export(Fixed(3, 2), torch.randn(4, 3), "refined", 2)
    with pytest.raises(ContractError, match=r"the guide of Summed .it has no latent sites"):
        export(Summed(), torch.randn(4), "refined", 2)


def test_a_pair_without_a_guide_has_nothing_to_choose_among():
    """Its one latent is summed out, so all candidates weigh the same, and it is drawn from its exact posterior."""
    found = export(Summed(), torch.randn(4), "resampled", 3)
    assert group(found, "posterior").c.shape == (1, 3, 4)
    np.testing.assert_allclose(group(found, "sample_stats").ess, 60)


@pytest.mark.parametrize("posterior", DRAWN_BY)
def test_hierarchies_and_networks(posterior):
    pair = MarkovHVAE.mlp(6, [3, 2], [8])
    found = export(pair, torch.rand(5, 6).round(), posterior, 3, AIS(num_temperatures=5, num_leapfrog=1))
    assert group(found, "posterior").z1.shape == (1, 3, 5, 3)
    assert np.isfinite(group(found, "sample_stats").log_w).all()
