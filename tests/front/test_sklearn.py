"""The densities pass scikit-learn's own checks, agree with exact values, and are searched over."""

import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn import mixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ppvae
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.sklearn import MixtureDensity, VAEDensity
from ppvae.threads import turn

NOISY = "score_samples has a Monte Carlo error, and a data point's draws depend on its place in the data"
DO_NOT_APPLY = {
    MixtureDensity: {},
    VAEDensity: {"check_methods_sample_order_invariance": NOISY, "check_methods_subset_invariance": NOISY},
}
SMALL = {"num_latents": 1, "hidden": (8,), "epochs": 2, "random_state": 0}


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    return rng.permutation(np.concatenate([rng.normal(loc, 0.3, (40, 2)) for loc in ([-3, 0], [0, 3], [3, 0])]))


@pytest.mark.slow(9)
@pytest.mark.parametrize("density", [MixtureDensity(random_state=0), VAEDensity(**SMALL, num_particles=10)])
def test_scikit_learns_own_checks_pass(density):
    expected = DO_NOT_APPLY[type(density)]
    found = check_estimator(density, on_skip=None, expected_failed_checks=expected)
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(expected)
    assert sum(check["status"] == "passed" for check in found) > 40


def test_a_mixture_agrees_with_scikit_learns(clusters):
    ours = MixtureDensity(num_components=3, restarts=5, random_state=0).fit(clusters)
    pair = ours.pair_
    theirs = mixture.GaussianMixture(3)
    theirs.weights_ = pair.logits.softmax(-1).detach().numpy()
    theirs.means_ = pair.means.detach().numpy()
    theirs.covariances_ = pair.covariances.detach().numpy()
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(theirs.covariances_))
    np.testing.assert_allclose(ours.score_samples(clusters), theirs.score_samples(clusters), rtol=1e-9)
    np.testing.assert_allclose(ours.transform(clusters), theirs.predict_proba(clusters), atol=1e-9)
    assert ours.score(clusters) == pytest.approx(theirs.score(clusters))


def test_a_vae_agrees_with_the_integral_over_its_latent():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 1)) * [1.0, 0.5] + 0.5 * rng.normal(size=(200, 2))
    density = VAEDensity(**SMALL | {"epochs": 100, "lr": 1e-2}, num_particles=2000).fit(data)
    x, pair = torch.as_tensor(data[:20]), density.pair_
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_joint = pair.prior().log_prob(z)[:, None] + pair.likelihood(z[:, None]).log_prob(x)
        exact = log_joint.logsumexp(0) + (z[1] - z[0]).log()
        mean = (log_joint.softmax(0) * z).sum(0)
    record = ppvae.log_evidence(pair, x, "iwae", 2000, seed=1, progress=False)
    assert record.reliable.sum() >= 10
    off = (torch.as_tensor(density.score_samples(data[:20])) - exact) / record.std_error
    assert off[record.reliable].abs().max() < 4
    encoded = torch.as_tensor(density.transform(data[:20]))[:, 0]
    assert torch.corrcoef(torch.stack([encoded, mean]))[0, 1] > 0.9


@pytest.mark.parametrize("posterior", POSTERIOR_FAMILIES)
def test_each_posterior_can_be_named(clusters, posterior):
    density = VAEDensity(**SMALL, posterior=posterior).set_params(num_latents=2).fit(clusters)
    assert np.isfinite(density.score(clusters))


def test_a_bad_number_of_samples_is_named(clusters):
    with pytest.raises(ValueError, match="n_samples: found 0, expected at least 1"):
        MixtureDensity().fit(clusters).sample(0)


@pytest.mark.parametrize("posterior", ["diagonal", "flow"])
def test_latents_are_the_same_at_each_call(clusters, posterior):
    """Of a flow, whose moments are drawn, too; torch's generator stays as it was."""
    density = VAEDensity(**SMALL, posterior=posterior).set_params(num_latents=2).fit(clusters)
    before = torch.get_rng_state()
    assert np.array_equal(density.transform(clusters), density.transform(clusters))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("density", [MixtureDensity(num_components=2), VAEDensity(**SMALL)])
def test_draws_are_decided_by_random_state_and_leave_torchs_generator_alone(density, clusters):
    before = torch.get_rng_state()
    one, two = (density.set_params(random_state=3).fit(clusters).sample(5, random_state=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (5, 2)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, density.sample(5, random_state=2))
    again = pickle.loads(pickle.dumps(density))
    assert np.array_equal(again.score_samples(clusters), density.score_samples(clusters))


def test_a_grid_search_finds_the_number_of_clusters(clusters):
    folds = KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(MixtureDensity(restarts=3, random_state=0), {"num_components": [1, 2, 3]}, cv=folds)
    assert search.fit(clusters).best_params_ == {"num_components": 3}


def test_a_grid_search_runs_over_a_pipeline(clusters):
    pipeline = make_pipeline(StandardScaler(), VAEDensity(**SMALL))
    search = GridSearchCV(pipeline, {"vaedensity__lr": [1e-4, 3e-2]}, cv=2).fit(clusters)
    assert search.best_params_ == {"vaedensity__lr": 3e-2}
    assert list(search.best_estimator_.get_feature_names_out()) == ["vaedensity0"]


def test_a_bad_setting_is_named(clusters):
    with pytest.raises(ValueError, match="likelihood: found 'gausian', expected one of"):
        VAEDensity(likelihood="gausian").fit(clusters)


@pytest.mark.parametrize("make", [lambda: MixtureDensity(2, random_state=0), lambda: VAEDensity(**SMALL)])
def test_other_threads_wait_before_they_touch_torchs_generator(clusters, make):
    """And find it as it was: each run has the result that it has alone."""
    alone, others, drawn = make().fit(clusters), [make() for _ in range(3)], []
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    with turn("this test"):
        threads = [threading.Thread(target=each.fit, args=(clusters,)) for each in others]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        drawn.append(torch.rand(2))
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([*drawn, torch.rand(2)]), expected)
    for each in others:
        for p, q in zip(alone.pair_.parameters(), each.pair_.parameters(), strict=True):
            assert torch.equal(p, q)
