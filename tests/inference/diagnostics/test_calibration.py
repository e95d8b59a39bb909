"""Ranks are uniform for exact guides, and tell what is wrong with others."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.tests_of_guides import assert_refusals, assert_the_seed_decides, watched
from support.zoo import ZOO
from support.zoo_pairs import Labeled

import ppvae
from ppvae import ContractError, Pair
from ppvae.inference.diagnostics.simulation_based_calibration import rank_counts
from ppvae.inference.runtime import chunks
from ppvae.models import GaussianMixture, LinearVAE
from ppvae.tracing import trace_model
from ppvae.views import plots
from ppvae.weights import sum_terms


def calibrated(pair, num_simulations=1000, **settings):
    return ppvae.calibration(pair, num_simulations, **({"seed": 0} | settings), progress=False)


class Distorted(LinearVAE):
    """The exact posterior, its scale and its mean changed."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__(num_features=4, num_latents=2, guide="exact")
        self.scale, self.shift = scale, shift

    def guide(self, x):
        exact = self.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.loc + self.shift, scale_tril=self.scale * exact.scale_tril))


class FromPrior(LinearVAE):
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def test_exact_guides_raise_no_alarm(float64):
    for pair in (Distorted(), GaussianMixture(4, 3)):
        ds = calibrated(pair)
        assert (ds["p_value"] > 1e-4).all()
        assert (ds["direction"] == "").all()


@pytest.mark.slow(8)
def test_p_values_of_exact_guides_are_uniform(float64):
    """Those of a discrete guide too: where ranks are tied, chance decides."""
    for pair in (Distorted(), GaussianMixture(3, 2)):
        found = np.stack([calibrated(pair, 200, num_samples=39, seed=seed)["p_value"] for seed in range(100)])
        for p_values in found.T:
            assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.slow(4)
def test_an_exact_guide_gets_a_word_once_in_a_hundred_runs_for_all_its_quantities_together():
    """Of 41 quantities in 25 runs ten would get one, if the chance were that for each quantity by itself."""
    pair = LinearVAE(num_features=41, num_latents=40, guide="exact")
    runs = [calibrated(pair, 200, num_samples=39, seed=seed)["direction"].values for seed in range(25)]
    assert sum((words != "").any() for words in runs) <= 3


@pytest.mark.parametrize(
    ("distortion", "of_latents", "of_log_joint"),
    [
        ({"scale": 0.5}, "too narrow", "too high"),
        ({"scale": 2.0}, "too wide", "too low"),
        ({"shift": 1.0}, "too high", "too low"),
        ({"shift": -1.0}, "too low", "too low"),
        ({"shift": -20.0}, "too low", "too low"),
    ],
)
def test_what_is_wrong_is_named(float64, distortion, of_latents, of_log_joint):
    ds = calibrated(Distorted(**distortion))
    assert ds["quantity"].values.tolist() == ["z[0]", "z[1]", "log_joint"]
    assert (ds["p_value"] < 1e-10).all()
    assert ds["direction"].values.tolist() == [of_latents, of_latents, of_log_joint]


def test_only_log_joint_sees_that_the_guide_is_the_prior(float64):
    ds = calibrated(FromPrior(4, 2))
    assert (ds["p_value"].sel(quantity=["z[0]", "z[1]"]) > 1e-3).all()
    assert ds["p_value"].sel(quantity="log_joint") < 1e-10
    assert ds["direction"].values.tolist() == ["", "", "too low"]


def test_ranks_count_draws_below_the_truth():
    """A guide that ignores x and draws from U(0, 1/2), where the truth is U(0, 1): the rank's law is known."""

    class Uniform(Pair):
        example = torch.zeros(1)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Uniform(torch.tensor(0.0), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Uniform(torch.tensor(0.0), 0.5))

    rank = calibrated(Uniform(), 4000, num_samples=9)["rank"].sel(quantity="z").values
    expected = np.full(10, 4000 * 0.5 / 10)  # from z < 1/2; all others have the highest rank
    expected[9] += 4000 * 0.5
    assert stats.chisquare(np.bincount(rank, minlength=10), expected).pvalue > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_log_joint_is_that_of_the_weights(name):
    pair, x = ZOO[name].make()
    weights = pair.eval().log_weights(x, num_particles=5)
    found = sum_terms(trace_model(pair, x, weights.latents, 5).log_p_terms())
    torch.testing.assert_close(found, weights.log_p)


@pytest.mark.parametrize("name", list(ZOO))
def test_every_pair_is_calibrated(name):
    pair, x = ZOO[name].make()
    pair.check(x)
    if not pair.eval().log_weights(x).latents:
        with pytest.raises(ContractError, match="guide: found no latent site, expected one to calibrate"):
            calibrated(pair, 10)
    else:
        ds = calibrated(pair, 40, num_samples=7)
        assert ds["rank"].min() >= 0
        assert ds["rank"].max() <= 7
        assert ds["rank"].dims == ("quantity", "simulation")


def test_covariates_are_the_examples():
    """The exact guide of shifted data: it is exact only if it gets the label that the data were drawn with."""

    class Exact(Labeled):
        def guide(self, x, label):
            self.seen = label
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x - self.shift(label)))

    pair = Exact()
    pair.shift.weight.data *= 10
    pair.check({"x": torch.randn(3, 3), "label": torch.ones(3, dtype=torch.long)})
    assert (calibrated(pair)["p_value"] > 1e-4).all()
    assert (pair.seen == 1).all()


def _masked(there):
    """A guide that is exact, of one latent and another that is not everywhere, but draws anything where it is not."""

    def model(x, length):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Bernoulli(torch.full((len(x),), 0.5)))
            w = pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0).mask(there(s, length)))
            pyro.sample("x", dist.Normal(torch.where(there(s, length), w, 0.0) + 3 * s, 1.0), obs=x)

    def guide(x, length):
        with pyro.plate("data", len(x)):
            scales = [torch.where(there(x.new_full(x.shape, s), length), 2.0, 1.0).sqrt() for s in (0.0, 1.0)]
            by_value = [dist.Normal(3.0 * s, scale).log_prob(x) for s, scale in enumerate(scales)]
            s = pyro.sample("s", dist.Bernoulli(logits=by_value[1] - by_value[0]))
            at = there(s, length)
            fn = dist.Normal(torch.where(at, (x - 3 * s) / 2, 5.0), torch.where(at, 0.5**0.5, 0.1))
            pyro.sample("w", fn.mask(at))

    return Pair.of(model, guide, (torch.zeros(1), torch.tensor([2])))


@pytest.mark.parametrize("there", [lambda s, length: length > 2, lambda s, length: s > 0], ids=["never", "sometimes"])
def test_what_a_guide_draws_for_a_masked_latent_does_not_matter(float64, there):
    ds = calibrated(_masked(there))
    assert (ds["p_value"] > 1e-3).all()
    assert (ds["direction"] == "").all()


def test_seed_decides_and_the_callers_stream_goes_on():
    pair = Distorted()
    assert_the_seed_decides(pair, lambda seed: calibrated(pair, 50, seed=seed))


@pytest.mark.slow(4)
def test_chunks_of_draws_and_of_simulations_change_no_law(float64, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 20_000)
    exact = Distorted()
    sizes = watched(exact)
    assert (calibrated(exact, 300)["p_value"] > 1e-4).all()
    assert max(sizes) < 100
    assert len(sizes) > 2 * 300 / max(sizes)
    assert (calibrated(Distorted(scale=0.5), 300)["direction"][:2] == "too narrow").all()


def test_bins_hold_their_share():
    counts, expected = rank_counts(np.arange(0, 1000).reshape(1, -1) % 47, num_samples=46)
    assert counts.shape == (1, 20)
    np.testing.assert_allclose(expected.sum(), 1000)
    np.testing.assert_allclose(counts[0], expected, atol=3)  # of unequal size: 47 ranks do not go into 20 bins


def test_refusals():
    assert_refusals(calibrated)
    pair = LinearVAE(4, 2)
    unchecked = ZOO["deep Markov"].make()[0]
    unchecked.example = None
    with pytest.raises(ContractError, match=r"example: found None, expected one row of data.*call pair.check\(data\)"):
        calibrated(unchecked)
    pair.mean.data[0] = math.nan
    with pytest.raises(ValueError, match=r"found a log p\(x, z\) that is not a number"):
        calibrated(pair)


def test_picture_shows_the_worst_first():
    wide = LinearVAE(num_features=15, num_latents=14)
    ds = calibrated(wide)
    figure = plots.calibration(ds)
    order = np.argsort(ds["p_value"].values)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == [str(ds["quantity"].values[i]) for i in order[:12]]
    assert figure.get_suptitle() == "the 12 least uniform of 15 quantities"
    counts, _ = rank_counts(ds["rank"].values, 99)
    band, expected, shown = (patch.get_data() for patch in figure.axes[0].patches)
    np.testing.assert_array_equal(shown.values, counts[order[0]])
    np.testing.assert_allclose(shown.edges, np.linspace(0, 1, 21))
    np.testing.assert_allclose(expected.values, 50)
    inside = stats.binom.cdf(band.values, 1000, 1 / 20) - stats.binom.cdf(band.baseline - 1, 1000, 1 / 20)
    assert ((inside >= 0.99) & (inside < 0.995)).all()
    plt.close(figure)


def test_picture_of_few_quantities_has_a_panel_for_each():
    figure = plots.calibration(calibrated(Distorted(scale=0.5)))
    assert len(figure.axes) == 3
    assert figure.get_suptitle() == ""
    titles = [ax.get_title() for ax in figure.axes]
    assert "z[0]\np < 1e-06, draws too narrow" in titles
    assert "log_joint\np < 1e-06, draws too high" in titles
    plt.close(figure)
