"""A classifier cannot tell draws of an exact guide, and tells where another one is wrong."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from support.misguided import Correlated, Distorted, FromPrior
from support.slow import some_slow
from support.tests_of_guides import FEW, assert_refusals, assert_same_in_both_layouts, assert_the_seed_decides, watched
from support.zoo import ZOO
from support.zoo_pairs import Labeled

import ppvae
from ppvae import ContractError
from ppvae.inference.diagnostics.local_classifiers import RIDGE, _Classifiers, _kernel, _p_values
from ppvae.inference.runtime import chunks
from ppvae.models import GaussianMixture, LinearVAE


def locally(pair, data, num_simulations=1000, **settings):
    return ppvae.local_classifier_test(pair, data, num_simulations, **({"seed": 0} | settings), progress=False)


def new_data(pair, num=20, seed=0):
    torch.manual_seed(seed)
    return pair.sample(num)


@pytest.mark.slow(25)
@pytest.mark.parametrize("make", [Correlated, lambda: Correlated(0.8)], ids=["uncorrelated", "correlated"])
def test_p_values_of_exact_guides_are_uniform(float64, make):
    """On the grid of 1 / 20, ..., 1 that 19 permutations leave; the adjusted ones hold for all data points together."""
    pair, runs = make(), range(200)
    settings = {"num_simulations": 100, "num_samples": 20, "num_permutations": 19}
    found = [locally(pair, new_data(pair, 10, seed), seed=seed, **settings) for seed in runs]
    p_value = np.round(20 * np.stack([ds["p_value"].values for ds in found])).astype(int)
    for of_point in p_value.T:
        assert stats.chisquare(np.bincount((of_point - 1) // 4, minlength=5)).pvalue > 1e-3
    alarms = sum(bool((ds["adjusted_p_value"] <= 0.05).any()) for ds in found)
    assert stats.binomtest(alarms, len(runs), 0.05).pvalue > 1e-3


@pytest.mark.parametrize(
    "pair",
    [
        lambda: Distorted(scale=0.7),
        lambda: Distorted(scale=1.5),
        lambda: Distorted(shift=0.4),
        lambda: Correlated(0.5, "diagonal"),
        FromPrior,
    ],
    ids=["narrow", "wide", "shifted", "mean-field", "prior"],
)
def test_wrong_guides_are_seen(float64, pair):
    """At most data points by themselves, and for all together at the least p-value that there is."""
    ds = locally(pair(), new_data(pair()))
    assert ds["adjusted_p_value"].min() == 1 / 200
    assert (ds["p_value"] <= 0.05).mean() > 0.8
    assert (ds["adjusted_p_value"] >= ds["p_value"]).all()


@pytest.mark.slow(15)
def test_a_mean_field_guide_is_seen_where_ranks_hardly_see_it(float64):
    """It costs 0.02 nats; of 10 runs with 1000 simulations."""
    pair, runs = Correlated(0.2, "diagonal"), range(10)
    ranks = [ppvae.calibration(pair, seed=seed, progress=False)["p_value"].values for seed in runs]
    found = [locally(pair, new_data(pair, seed=seed), seed=seed)["adjusted_p_value"].min() for seed in runs]
    assert sum(p <= 0.05 for p in found) >= max(5, 2 * sum(p.min() * len(p) <= 0.05 for p in ranks))


@pytest.mark.slow(6)
def test_it_tells_where_a_guide_is_wrong(float64):
    """Too narrow where x[0] > 0 alone."""
    pair = Distorted(scale=0.5, local=True)
    x = new_data(pair, 200)
    statistic = locally(pair, x, 2000)["statistic"].values
    wrong, right = statistic[x[:, 0] > 1], statistic[x[:, 0] < -1]
    assert min(len(wrong), len(right)) > 30
    assert np.median(wrong) > 3 * np.median(right)
    assert (wrong.min() > right).mean() > 0.9


def test_the_classifier_is_the_ridge_regression(float64):
    """It is the stationary point of `|y - K a|^2 + ridge a' K a`."""
    truth, guided, data = torch.randn(30, 2), 2 * torch.randn(30, 2), torch.randn(30, 3)
    signs = 2 * torch.randint(2, (30, 4)) - 1
    found = _Classifiers.trained(truth, guided, torch.cat([data, torch.ones(30, 1)], 1), signs)
    labels = torch.cat([torch.ones(30, 1), signs], 1)
    labels = torch.cat([labels, -labels])
    predicted = torch.cat([found(z[None], torch.cat([data, torch.ones(30, 1)], 1))[0] for z in (truth, guided)])
    torch.testing.assert_close(predicted + RIDGE * found.weights, labels)
    assert (predicted[:30, 0].mean(), predicted[30:, 0].mean()) > (0, -1)


def test_the_kernel_is_one_of_equal_rows_and_half_disregards_the_data(float64):
    latents, data = torch.randn(6, 2), torch.cat([torch.zeros(3, 4), torch.full((3, 4), 1e3)])
    found = _kernel(latents, latents, data, data[:3])
    torch.testing.assert_close(found.diagonal()[:3], torch.ones(3))
    of_latents = (-torch.cdist(latents, latents).square() / 4).exp()
    torch.testing.assert_close(found[3:], of_latents[3:] / 2)
    torch.testing.assert_close(found[:3], of_latents[:3])


def test_p_values_count_the_null():
    statistic = np.array([[4.0, 1.0, 2.0, 5.0], [1.0, 2.0, 8.0, 4.0]])
    p_value, adjusted = _p_values(statistic)
    assert p_value.tolist() == [0.5, 1.0]
    assert adjusted.tolist() == [0.75, 1.0]  # the third classifier's largest is of the second data point


@pytest.mark.parametrize("name", some_slow(ZOO, 0.2, lambda name: name in FEW))
def test_every_pair_of_continuous_latents_is_tested_in_both_layouts(name, float64):
    """Or refused by name, in both alike."""

    def statistic(pair, x):
        ds = locally(pair, x, 10, num_samples=5, num_permutations=19)
        assert ds["statistic"].dims == ("data",)
        return ds["statistic"].values

    assert_same_in_both_layouts(name, statistic, rtol=1e-6)


@pytest.mark.slow(4)
def test_covariates_are_the_datas(float64):
    """An exact guide of data shifted by their label, and one that takes the other label for some of them."""

    class Exact(Labeled):
        wrong = False

        def guide(self, x, label):
            told = torch.where(torch.tensor(self.wrong), torch.ones_like(label), label)
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x - self.shift(told)))

    pair = Exact()
    data = {"x": torch.randn(40, 3), "label": torch.arange(40) % 2}
    data["x"] = pair.sample(data)
    assert locally(pair, data)["adjusted_p_value"].min() > 0.05
    pair.wrong = True
    found = locally(pair, data)["statistic"].values
    assert np.median(found[::2]) > 2 * np.median(found[1::2])


def test_seed_decides_and_the_callers_stream_goes_on(float64):
    pair = Distorted()
    x = new_data(pair, 5)
    pair.check(x)
    assert_the_seed_decides(pair, lambda seed: locally(pair, x, 50, seed=seed))


def test_chunks_of_draws_and_of_data_points_change_no_law(float64, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 100_000)
    for scale, least, most in ((1.0, 0.02, 1.0), (0.5, 0.0, 0.01)):
        pair = Distorted(scale=scale)
        x, sizes = new_data(pair), watched(pair)
        assert least <= locally(pair, x, 200, num_samples=50)["adjusted_p_value"].min() <= most
        assert max(sizes) < 200


def test_refusals():
    pair = LinearVAE(4, 2)
    x = torch.randn(5, 4)
    with pytest.raises(ValueError, match="num_permutations: found 18, expected a whole number of at least 19"):
        locally(pair, x, num_permutations=18)
    assert_refusals(lambda pair, **settings: locally(pair, torch.randn(5, 5), **settings))
    with pytest.raises(ContractError, match=r"Categorical, which is discrete, .* use ppvae.calibration"):
        locally(GaussianMixture(4, 4), x)
    pair.encoder.bias.data[0] = math.nan
    with pytest.raises(ValueError, match=r"not a number|NaN|nan"):
        locally(pair, x)
