"""Credibilities are uniform for exact guides, those of a wrong one are known in closed form, and say what is wrong."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from support.misguided import Correlated, Distorted, FromPrior
from support.slow import some_slow
from support.tests_of_guides import FEW, assert_refusals, assert_same_in_both_layouts, assert_the_seed_decides, watched
from support.zoo import ZOO
from support.zoo_pairs import Labeled

import ppvae
from ppvae import ContractError, Pair
from ppvae.inference.runtime import chunks
from ppvae.models import GaussianMixture, LinearVAE
from ppvae.views import plots


def covered(pair, num_simulations=1000, **settings):
    return ppvae.expected_coverage(pair, num_simulations, **({"seed": 0} | settings), progress=False)


class Given(Pair):
    """One latent with a prior and a guide as given, which x tells nothing about: all is known."""

    example = torch.zeros(1)

    def __init__(self, prior, guide):
        super().__init__()
        self.p, self.q = prior, guide

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.p())
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q())


def alarm(ds):
    """Whether either reference shows an error, at 5%."""
    return ds["p_value"].min() * 2 <= 0.05


@pytest.mark.slow(25)
@pytest.mark.parametrize("make", [Correlated, lambda: Correlated(0.8)], ids=["uncorrelated", "correlated"])
def test_p_values_of_exact_guides_are_uniform(float64, make):
    found = np.stack([covered(make(), 200, num_samples=39, seed=seed)["p_value"] for seed in range(200)])
    for p_values in found.T:
        assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    alarms = (2 * found.min(1) <= 0.05).sum()
    assert stats.binomtest(int(alarms), 200, 0.05, alternative="greater").pvalue > 1e-3


@pytest.mark.slow(3)
def test_the_coverage_of_a_narrow_guide_is_known(float64):
    """Truth N(0, 1), guide N(0, s^2), reference 0: a ball of level a covers `2 Phi(s Phi^-1((1 + a) / 2)) - 1`."""
    scale, num = 0.6, 4000
    pair = Given(lambda: dist.Normal(torch.zeros(()), 1.0), lambda: dist.Normal(torch.zeros(()), scale))
    pair.example = torch.zeros(1, dtype=torch.float64)
    ds = covered(pair, num, num_samples=999)
    level = ds["level"].values[1:-1]
    exact = 2 * stats.norm.cdf(scale * stats.norm.ppf((1 + level) / 2)) - 1
    std_error = np.sqrt(exact * (1 - exact) / num)
    assert (np.abs(ds["coverage"].sel(reference="mean").values[1:-1] - exact) < 4 * std_error + 1 / 500).all()
    assert ds["coverage"].values[:, [0, -1]].tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("pair", "about_the_mean", "about_the_heaviest"),
    [
        (lambda: Distorted(scale=0.5), "too near", "too near"),
        (lambda: Distorted(scale=2.0), "too far", "too far"),
        (lambda: Distorted(shift=0.3), None, "too far"),
        (lambda: Distorted(shift=-0.3), None, "too far"),
        (lambda: Correlated(0.8, "diagonal"), "too near", "too near"),
        (FromPrior, "too far", "too far"),
    ],
    ids=["narrow", "wide", "shifted up", "shifted down", "mean-field", "prior"],
)
def test_what_is_wrong_is_named(float64, pair, about_the_mean, about_the_heaviest):
    ds = covered(pair())
    assert ds["p_value"].sel(reference="heaviest") < 1e-8
    assert ds["direction"].sel(reference="heaviest") == about_the_heaviest
    if about_the_mean:
        assert ds["p_value"].sel(reference="mean") < 1e-8
        assert ds["direction"].sel(reference="mean") == about_the_mean


@pytest.mark.slow(12)
def test_a_mean_field_guide_is_seen_where_ranks_hardly_see_it(float64):
    """It costs 0.05 nats. Of 20 runs with 1000 simulations: twice the alarms, and in at least half of the runs."""
    pair, runs = Correlated(0.3, "diagonal"), range(20)
    assert 0.04 < pair.factorized_gap() < 0.05
    ranks = [ppvae.calibration(pair, seed=seed, progress=False)["p_value"].values for seed in runs]
    by_ranks = sum(p.min() * len(p) <= 0.05 for p in ranks)
    by_coverage = sum(bool(alarm(covered(pair, seed=seed))) for seed in runs)
    assert by_coverage >= max(10, 2 * by_ranks)


def test_a_circle_has_no_ends(float64):
    """Truth and guide about pi, where an angle starts anew: exact, and turned by half a radian."""
    for turn, least, most in ((0.0, 1e-3, 1.0), (0.5, 0.0, 1e-6)):
        pair = Given(
            lambda: dist.VonMises(torch.tensor(math.pi), 4.0),
            lambda turn=turn: dist.VonMises(torch.tensor(math.pi + turn), 4.0),
        )
        pair.example = torch.zeros(1, dtype=torch.float64)
        assert least < covered(pair)["p_value"].min() <= most


def test_latents_that_are_masked_tell_nothing(float64):
    """A guide that is wrong only about a latent that is not there is exact."""

    class Partly(Pair):
        example = torch.zeros(1, dtype=torch.float64)

        def model(self, x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
                with poutine.mask(mask=torch.tensor(False)):
                    pyro.sample("b", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(a, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("a", dist.Normal(x / 2, 0.5**0.5))
                with poutine.mask(mask=torch.tensor(False)):
                    pyro.sample("b", dist.Normal(torch.tensor(5.0), 3.0))

    assert (covered(Partly())["p_value"] > 1e-3).all()


@pytest.mark.parametrize("name", some_slow(ZOO, 0.2, lambda name: name in FEW))
def test_every_pair_of_continuous_latents_is_tested_in_both_layouts(name, float64):
    """Or refused by name, in both alike."""

    def credibility(pair, x):
        ds = covered(pair, 20, num_samples=7)
        assert ds["credibility"].dims == ("reference", "simulation")
        assert ((ds["credibility"] > 0) & (ds["credibility"] < 1)).all()
        return ds["credibility"].values

    assert_same_in_both_layouts(name, credibility)


def test_covariates_are_the_examples(float64):
    class Exact(Labeled):
        def guide(self, x, label):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x - self.shift(label)))

    pair = Exact()
    pair.shift.weight.data *= 10
    pair.check({"x": torch.randn(3, 3), "label": torch.ones(3, dtype=torch.long)})
    assert (covered(pair)["p_value"] > 1e-3).all()


def test_seed_decides_and_the_callers_stream_goes_on():
    pair = Distorted()
    assert_the_seed_decides(pair, lambda seed: covered(pair, 50, seed=seed))


def test_chunks_of_draws_and_of_simulations_change_no_law(float64, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 50_000)
    exact = Distorted()
    sizes = watched(exact)
    assert (covered(exact, 200, num_samples=50)["p_value"] > 1e-3).all()
    assert max(sizes) < 200
    assert (covered(Distorted(scale=0.5), 200, num_samples=50)["direction"] == "too near").all()


def test_refusals():
    assert_refusals(covered)
    pair = LinearVAE(4, 2)
    with pytest.raises(ContractError, match=r"Categorical, which is discrete, .* use ppvae.calibration"):
        covered(GaussianMixture(4, 3))
    narrow = Given(lambda: dist.Uniform(torch.tensor(0.0), 1.0), lambda: dist.Uniform(torch.tensor(0.0), 0.5))
    with pytest.raises(ContractError, match=r"guide site 'z': found Uniform .* give the guide the model's support"):
        covered(narrow)
    pair.mean.data[0] = math.nan
    with pytest.raises(ValueError, match=r"found a log p\(x, z\) that is not a number"):
        covered(pair)


def test_picture_shows_coverage_and_what_chance_allows():
    ds = covered(Distorted(scale=0.5))
    figure = plots.expected_coverage(ds)
    (ax,) = figure.axes
    for reference, line in zip(ds["reference"].values, ax.get_lines()[1:], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), ds["coverage"].sel(reference=reference))
        assert line.get_label() == f"about the {reference}: p < 1e-06, draws too near"
    plt.close(figure)
