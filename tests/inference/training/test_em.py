"""EM against scikit-learn, and what it promises by itself: it climbs, and says when it cannot."""

import functools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch.utils.data import DataLoader, TensorDataset

from ppvae.inference.training.em import PARAMETERS, fit_em, fit_streaming_em
from ppvae.models import GaussianMixture

COVARIANCES = {"full": "full", "diagonal": "diag", "spherical": "spherical", "tied": "tied"}


@pytest.fixture(params=COVARIANCES)
def covariance(request) -> str:
    return request.param


def clusters(num: int = 600, num_features: int = 3, num_clusters: int = 4, spread: float = 2.0) -> torch.Tensor:
    """Gaussian clusters of different shapes, overlapping where `spread` is small."""
    rng = np.random.default_rng(0)
    centers = spread * rng.normal(size=(num_clusters, num_features))
    factors = rng.normal(size=(num_clusters, num_features, num_features))
    which = rng.integers(num_clusters, size=num)
    noise = np.einsum("nij,nj->ni", factors[which], rng.normal(size=(num, num_features)))
    return torch.tensor(centers[which] + noise)


def mixture_for(x: torch.Tensor, num_components: int, covariance: str = "full") -> GaussianMixture:
    torch.manual_seed(0)
    return GaussianMixture(num_components, x.shape[1], covariance).to(x.dtype)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("source", ["clusters", "digits"])
def test_is_scikit_learns_from_the_same_start(covariance, source):
    x = clusters() if source == "clusters" else torch.tensor(load_digits().data[:600] / 16)
    C = 4
    ours = mixture_for(x, C, covariance)
    ours.start(x[:C], variance=2.0)
    precisions = torch.linalg.inv(ours.covariances) if covariance in ("full", "tied") else 1 / ours.covariances
    sklearn = SklearnMixture(
        C,
        covariance_type=COVARIANCES[covariance],
        tol=0,
        max_iter=12,
        reg_covar=1e-5,
        init_params="random_from_data",
        weights_init=np.full(C, 1 / C),
        means_init=x[:C].numpy(),
        precisions_init=precisions.detach().numpy(),
    ).fit(x.numpy())
    result = fit_em(ours, x, init="current", max_iterations=12, tolerance=0, covariance_floor=1e-5)
    assert result.num_iterations == 12
    assert result.history[-2] == pytest.approx(sklearn.lower_bound_, abs=1e-8)
    assert result.history[-1] == pytest.approx(sklearn.score(x.numpy()), abs=1e-8)
    torch.testing.assert_close(ours.means.detach(), torch.tensor(sklearn.means_), rtol=1e-6, atol=1e-6)


def test_goes_on_where_the_floor_costs_a_little():
    """A large floor may lower the likelihood for an iteration; that is not the end."""
    x = torch.tensor(load_digits().data / 16)
    mixture = mixture_for(x, 10)
    result = fit_em(mixture, x, covariance_floor=1e-3, tolerance=0.0, max_iterations=100)
    falls = np.flatnonzero(np.diff(result.history) < 0)
    assert len(falls) > 0
    assert result.num_iterations > falls[0] + 1


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("floor", [0.0, 1e-6, 0.3])
def test_likelihood_never_falls(covariance, hard, floor):
    """With a large floor EM does fall, but never by more than the floor's cost: `fit_em` raises if it does."""
    x = clusters()
    result = fit_em(
        mixture_for(x, 4, covariance), x, hard=hard, covariance_floor=floor, tolerance=-1.0, max_iterations=30
    )
    assert result.num_iterations == 30
    if floor < 0.1:
        assert min(np.diff(result.history)) > -1e-9


def test_floor_can_cost_likelihood_and_the_bound_says_how_much():
    """From the maximum without a floor, one M-step with it must lose likelihood: the bound is not vacuous."""
    x = clusters()
    mixture = mixture_for(x, 4)
    best = fit_em(mixture, x, covariance_floor=0.0, max_iterations=100).history[-1]
    moments = mixture.e_step(x).moments
    least_gain = mixture.m_step(moments, covariance_floor=0.1)
    gain = mixture.e_step(x).log_likelihood.mean().item() - best
    assert least_gain <= gain < 0


def test_a_fall_is_refused(monkeypatch):
    x = clusters()
    mixture = mixture_for(x, 4)

    def worsen(moments, covariance_floor, update):
        mixture.assign(means=mixture.means + 10.0)
        return 0.0

    monkeypatch.setattr(mixture, "m_step", worsen)
    with pytest.raises(
        FloatingPointError, match=r"EM iteration 1: mean log likelihood went from .* use mixture.double"
    ):
        fit_em(mixture, x, init="current")


def test_float32_ends_where_float64_does(covariance):
    x = clusters()
    ends = [fit_em(mixture_for(y, 4, covariance), y, max_iterations=20).history[-1] for y in (x, x.float())]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_covariance_floor_keeps_a_feature_that_never_varies(covariance):
    x = torch.cat([clusters(), torch.full((600, 1), 7.0)], 1).double()
    mixture = mixture_for(x, 4, covariance)
    assert np.isfinite(fit_em(mixture, x, covariance_floor=1e-4).history[-1])
    if covariance != "spherical":
        torch.testing.assert_close(mixture.scale_tril[:, -1, -1].detach(), torch.full((4,), 1e-2).double())
        with pytest.raises(ValueError, match=r"not positive definite at index .* raise covariance_floor"):
            fit_em(mixture_for(x, 4, covariance), x, covariance_floor=0.0)


@pytest.mark.filterwarnings("ignore:fit_em")
def test_a_component_of_equal_values_among_large_ones(covariance):
    """Incomes, a third of them zero, and ages: the floor's standard deviation is far below the others' distance."""
    rng = np.random.default_rng(0)
    incomes = np.where(rng.random(2000) < 1 / 3, 0.0, rng.normal(5e4, 8e3, 2000))
    x = torch.tensor(np.stack([incomes, rng.normal(40, 10, 2000)], 1))
    mixture = mixture_for(x, 2, covariance)
    result = fit_em(mixture, x)
    each = torch.distributions.MultivariateNormal(mixture.means, scale_tril=mixture.scale_tril).log_prob(x[:, None])
    exact = (mixture.weights.log() + each).logsumexp(1).detach()
    torch.testing.assert_close(mixture.log_prob(x).detach(), exact, rtol=0, atol=1e-9)
    assert result.history[-1] == pytest.approx(exact.mean().item(), abs=1e-7)
    sklearn = SklearnMixture(2, covariance_type=COVARIANCES[covariance], random_state=0).fit(x.numpy())
    assert result.history[-1] == pytest.approx(sklearn.score(x.numpy()), abs=1e-2)


def test_hard_em_is_kmeans():
    x = torch.tensor(load_digits().data)
    start = kmeans_plusplus(x.numpy(), 10, random_state=0)[0]
    kmeans = KMeans(10, init=start, n_init=1, algorithm="lloyd", tol=0).fit(x.numpy())
    mixture = mixture_for(x, 10, "spherical")
    mixture.start(torch.tensor(start), variance=1.0)
    result = fit_em(mixture, x, init="current", hard=True, update=["means"], tolerance=0)
    assert result.converged
    torch.testing.assert_close(mixture.means.detach(), torch.tensor(kmeans.cluster_centers_))
    constant = np.log(10) + x.shape[1] / 2 * np.log(2 * np.pi)
    assert -2 * len(x) * (result.history[-1] + constant) == pytest.approx(kmeans.inertia_, rel=1e-10)
    assert (mixture.responsibilities(x).argmax(1).numpy() == kmeans.labels_).all()
    torch.testing.assert_close(mixture.covariances.detach(), torch.ones(10).double())


@pytest.mark.parametrize("hard", [False, True])
def test_empty_components_are_reseeded_and_it_is_said(covariance, hard):
    x = clusters()
    far = torch.cat([x[:3], torch.full((1, 3), 1e4).double()])
    mixture = mixture_for(x, 4, covariance)
    mixture.start(far, variance=1.0)
    with pytest.warns(UserWarning, match=r"components \[3\] lost all their data points and were reseeded"):
        result = fit_em(mixture, x, init="current", hard=hard, covariance_floor=1e-3)
    assert result.reseeded[0] == (1, 3)
    assert mixture.weights[3] * len(x) > 1
    assert mixture.means.abs().max() < 100


@pytest.mark.parametrize("update", [["weights"], ["covariances"], ["weights", "covariances"]])
def test_an_empty_component_whose_mean_is_not_learned_stays_empty(covariance, update):
    """The others then learn what they learn without it."""
    x = clusters()
    far, near = mixture_for(x, 4, covariance), mixture_for(x, 3, covariance)
    far.start(torch.cat([x[:3], torch.full((1, 3), 1e4).double()]), variance=1.0)
    near.start(x[:3], variance=1.0)
    settings = {"init": "current", "update": update, "tolerance": -1, "max_iterations": 40, "covariance_floor": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_it, without = (fit_em(mixture, x, **settings) for mixture in (far, near))
    lost = 0.0 if "weights" in update else np.log(4 / 3)
    assert not with_it.reseeded
    assert with_it.history[-1] == pytest.approx(without.history[-1] - lost, abs=1e-9)
    for name in PARAMETERS[::2]:
        learned = getattr(far, name).detach()
        each = learned if name == "covariances" and covariance == "tied" else learned[:3]
        scale = 0.75 if name == "weights" and name not in update else 1.0
        torch.testing.assert_close(each, scale * getattr(near, name).detach(), rtol=1e-6, atol=1e-9)


def test_the_best_of_several_restarts_is_kept():
    x = clusters(num_clusters=6)
    mixture = mixture_for(x, 6)
    result = fit_em(mixture, x, init="random", restarts=4, max_iterations=15)
    finals = result.final_log_likelihoods
    assert len(set(finals)) == 4
    assert result.history[-1] == max(finals) == finals[result.restart]
    assert mixture.log_prob(x).mean().item() == pytest.approx(max(finals), abs=1e-10)
    alone = fit_em(mixture_for(x, 6), x, init="random", max_iterations=15, seed=result.restart)
    assert alone.history == result.history


def test_means_can_be_given():
    x = clusters()
    given, drawn = (mixture_for(x, 4) for _ in range(2))
    means = torch.tensor(kmeans_plusplus(x.numpy(), 4, random_state=3)[0])
    assert fit_em(given, x, init=means).history == fit_em(drawn, x, seed=3).history


def test_only_what_is_named_is_learned():
    x = clusters()
    mixture = mixture_for(x, 4)
    mixture.start(x[:4], variance=1.0)
    fit_em(mixture, x, init="current", update=["means", "covariances"], max_iterations=3)
    torch.testing.assert_close(mixture.weights.detach(), torch.full((4,), 0.25).double())
    assert not torch.equal(mixture.means.detach(), x[:4])


@pytest.mark.slow(3)
def test_streaming_em_approaches_the_full_batch_likelihood(covariance):
    x = clusters(num=6000, spread=12.0)
    best = fit_em(mixture_for(x, 4, covariance), x).history[-1]
    losses = []
    for epochs in (1, 5, 20):
        mixture = mixture_for(x, 4, covariance)
        fit_streaming_em(mixture, x, batch_size=300, epochs=epochs)
        losses.append(best - mixture.log_prob(x).mean().item())
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-4


def test_streaming_moments_of_equal_parts_are_those_of_the_whole(covariance):
    x = clusters(num=100) + 1e4
    mixture = mixture_for(x, 4, covariance)
    mixture.start(x[:4], variance=1.0)
    whole = mixture.e_step(x).moments
    pooled = mixture.e_step(x[:75]).moments.pool(mixture.e_step(x[75:]).moments, share=0.25)
    for name in ("weight", "mean", "covariance"):
        torch.testing.assert_close(getattr(pooled, name), getattr(whole, name), rtol=1e-7, atol=1e-7)


def test_streaming_takes_loaders_lists_and_arrays():
    x = clusters(num=400)
    loader = DataLoader(TensorDataset(x, torch.zeros(400)), batch_size=100)
    ends = []
    for batches in (loader, list(x.split(100)), [part.numpy() for part in x.split(100)], iter(x.split(100))):
        mixture = mixture_for(x, 4)
        result = fit_streaming_em(mixture, batches)
        assert len(result.history) == 4
        ends.append(mixture.means.detach())
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_streaming_takes_tables_and_data_sets_whole():
    x = clusters(num=400)
    ends = []
    for data in (x, pd.DataFrame(x.numpy()), TensorDataset(x)):
        fit_streaming_em(mixture := mixture_for(x, 4), data, batch_size=100)
        ends.append(mixture.means.detach())
    assert all(torch.equal(end, ends[0]) for end in ends)
    for data, found in ((x.tolist()[0], "'0': 'float'"), ({"x": x}, "dict"), (3, "'0': 'int'")):
        with pytest.raises(ValueError, match=f"data: found .*{found}"):
            fit_streaming_em(mixture, data)


def test_streaming_reseeds_empty_components():
    x = clusters(num=400)
    mixture = mixture_for(x, 4)
    mixture.start(torch.cat([x[:3], torch.full((1, 3), 1e4).double()]), variance=1.0)
    with pytest.warns(UserWarning, match=r"components \[3\]"):
        fit_streaming_em(mixture, x, batch_size=100, init="current")
    assert mixture.means.abs().max() < 100


def test_progress_is_shown_on_request(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    x = clusters()
    for progress in (False, True):
        fit_em(mixture_for(x, 4), x, progress=progress)
        fit_streaming_em(mixture_for(x, 4), x, batch_size=100, progress=progress)
        shown = capsys.readouterr().err
        assert ("EM 1/1" in shown and "nats" in shown and "streaming EM 1/1" in shown) == progress


def test_leaves_the_global_generators_alone():
    x = clusters()
    mixture = mixture_for(x, 4)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit_em(mixture, x, init="random")
    fit_streaming_em(mixture, x, batch_size=100)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "kmeans"}, "init: found 'kmeans', expected 'k-means\\+\\+'"),
        ({"init": torch.zeros(2, 3)}, r"means: found shape \[2, 3\], expected \[4, 3\]"),
        ({"init": "current", "restarts": 2}, "restarts: found 2 with init='current'"),
        ({"restarts": 0}, "restarts: found 0"),
        ({"update": ["scales"]}, "update: found"),
    ],
)
def test_bad_options_are_refused(options, message):
    x = clusters()
    with pytest.raises(ValueError, match=message):
        fit_em(mixture_for(x, 4), x, **options)


def test_bad_data_are_refused():
    x = clusters()
    mixture = mixture_for(x, 4)
    bad = x.clone()
    bad[17, 2] = torch.inf
    with pytest.raises(ValueError, match=r"index \(17, 2\)"):
        fit_em(mixture, bad)
    with pytest.raises(ValueError, match="found 3 data points, expected at least one for each of 4"):
        fit_em(mixture, x[:3])
    with pytest.raises(ValueError, match=r"found \[600\], expected one tensor or array \[N, D\]"):
        fit_em(mixture, x[:, 0])
    with pytest.raises(ValueError, match=r"found shape \[600, 2\], expected \[N, 3\]"):
        fit_em(mixture, x[:, :2], init="current")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 100, "step_exponent": 0.5}, "step_exponent: found 0.5"),
        ({"batch_size": 100, "epochs": 0}, "epochs: found 0"),
        ({}, "batch_size: found None"),
        ({"batch_size": 2}, "found 2 data points"),
    ],
)
def test_bad_streaming_options_are_refused(options, message):
    x = clusters()
    with pytest.raises(ValueError, match=message):
        fit_streaming_em(mixture_for(x, 4), x, **options)


def test_a_stream_that_ends_early_is_refused():
    x = clusters()
    with pytest.raises(ValueError, match="found none in epoch 2 of 2"):
        fit_streaming_em(mixture_for(x, 4), iter(x.split(100)), epochs=2)
    with pytest.raises(ValueError, match="batch_size: found 5 with an iterable"):
        fit_streaming_em(mixture_for(x, 4), x.split(100), batch_size=5)


@pytest.mark.parametrize("fit", [fit_em, functools.partial(fit_streaming_em, batch_size=100)])
def test_binary_data_have_no_density(fit):
    """Each feature has two values, but for one that has one and one that has many."""
    x = torch.cat([torch.rand(200, 5).round(), torch.zeros(200, 1), torch.randn(200, 1)], 1)
    with pytest.warns(UserWarning, match="found 5 features of 7 with two values alone"):
        fit(GaussianMixture(2, 7, "diagonal"), x)
    fit(GaussianMixture(2, 2, "diagonal"), x[:, -2:])


@pytest.mark.parametrize("train", [fit_em, functools.partial(fit_streaming_em, batch_size=300)])
def test_frozen_parameters_are_not_changed(train):
    x = clusters()
    mixture = GaussianMixture(4, 3)
    mixture.means.requires_grad_(False)
    before = {name: t.clone() for name, t in mixture.state_dict().items()}
    with pytest.raises(ValueError, match=r"found \['means'\] frozen.*init='current', update=.*requires_grad_\(\)"):
        train(mixture, x)
    torch.testing.assert_close(mixture.state_dict(), before, rtol=0, atol=0)
    fit_em(mixture, x, init="current", update=["weights", "covariances"])
    assert torch.equal(mixture.means, before["means"])
    assert not torch.equal(mixture.raw_scale, before["raw_scale"])
    train(mixture.requires_grad_(), x)
    assert not torch.equal(mixture.means, before["means"])
