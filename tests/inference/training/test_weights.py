"""Weights of data points: one of weight 2 is the same as two alike."""

import pytest
import torch
from support.annealed import Watched, annealed

import ppvae
from ppvae.inference.objectives.protocol import FunctionObjective, with_penalty
from ppvae.inference.training.data_weights import data_weights
from ppvae.models import VAE, GaussianMixture, LatentCritic, LinearVAE

X = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
COUNTS = torch.tensor([2, 1, 3, 0, 1, 1, 2, 4, 0, 1, 1, 2])
TWICE = X.repeat_interleave(COUNTS, 0)


def linear():
    torch.manual_seed(1)
    return LinearVAE(num_features=3, num_latents=2).double()


def mixture():
    torch.manual_seed(1)
    return GaussianMixture(num_components=2, num_features=3, guide="amortized").double()


def gradients(pair, objective, x, weights):
    mean, surrogate = with_penalty(objective, pair, x, 0, weights)
    found = torch.autograd.grad(surrogate, list(pair.parameters()), allow_unused=True)
    return mean.detach(), [g for g in found if g is not None]


def test_full_batch_gradients_are_those_of_repeated_data():
    """Exactly where the objective has no noise."""
    weights = data_weights(COUNTS, len(X))
    mean, found = gradients(mixture(), ppvae.EnumeratedELBO(), X, weights)
    expected_mean, expected = gradients(mixture(), ppvae.EnumeratedELBO(), TWICE, None)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(found, expected)


NOISY = [
    ppvae.ELBO(16),
    ppvae.ELBO(16, gradient="stl"),
    ppvae.ELBO(16, gradient="score"),
    ppvae.ELBO(16, beta=0.5),
    ppvae.IWAE(16),
    ppvae.IWAE(16, gradient="dreg"),
    ppvae.RWS(16),
    ppvae.RWS(16, phase="sleep"),
]


@pytest.mark.parametrize("objective", NOISY, ids=str)
def test_noisy_gradients_are_those_of_repeated_data_in_the_mean(objective):
    """Within 4.5 standard errors of the difference, over 50 draws of four at once, in the worst of all parameters."""
    x, twice, runs = X.repeat(4, 1), TWICE.repeat(4, 1), {True: [], False: []}
    weights, pair = data_weights(COUNTS.repeat(4), len(x)), linear()
    for _ in range(50):
        for weighted in (True, False):
            _, g = gradients(pair, objective, *((x, weights) if weighted else (twice, None)))
            runs[weighted].append(torch.cat([part.flatten() for part in g]))
    ours, theirs = (torch.stack(runs[weighted]) for weighted in (True, False))
    error = ((ours.var(0) + theirs.var(0)) / 50).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4.5 * error + 1e-12).all()


def test_a_run_is_that_of_repeated_data():
    settings = {"objective": ppvae.EnumeratedELBO(), "epochs": 5, "lr": 0.05, "batch_size": 100, "progress": False}
    found = ppvae.fit(mixture(), X, weights=COUNTS, **settings)
    expected = ppvae.fit(mixture(), TWICE, **settings)
    torch.testing.assert_close(found.history["bound"], expected.history["bound"])
    for a, b in zip(found.pair.parameters(), expected.pair.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    scaled = ppvae.fit(mixture(), X, weights=(0.1 * COUNTS).tolist(), **settings)
    torch.testing.assert_close(scaled.history["bound"], expected.history["bound"])


def test_minibatches_weigh_their_own_rows():
    """The mean over an epoch's gradients, at a learning rate of nothing, is the full batch's."""
    weights = data_weights(COUNTS, len(X))
    bounds = ppvae.fit(
        mixture(), X, ppvae.EnumeratedELBO(), weights=COUNTS, epochs=1, lr=0.0, batch_size=5, progress=False
    ).history
    mean, _ = gradients(mixture(), ppvae.EnumeratedELBO(), X, weights)
    torch.testing.assert_close(bounds["bound"][0], mean.item())


@pytest.mark.slow(30)
def test_compiled_steps_weigh_the_same():
    settings = {"weights": COUNTS, "epochs": 6, "batch_size": 4, "lr": 0.02, "progress": False}
    compiled, eager = (ppvae.fit(linear(), X, compile=compile, **settings) for compile in (True, False))
    torch.testing.assert_close(
        compiled.history["bound_per_step"], eager.history["bound_per_step"], rtol=1e-6, atol=1e-8
    )


def test_weights_are_among_the_settings_of_a_run(tmp_path):
    settings = {"epochs": 1, "checkpoint": tmp_path / "run", "progress": False}
    ppvae.fit(linear(), X, weights=COUNTS, **settings)
    with pytest.raises(ppvae.CheckpointError, match="weights"):
        ppvae.fit(linear(), X, resume=True, **settings)


def test_arguments_that_are_no_data_go_with_weights():
    pair = Watched()
    ppvae.fit(pair, annealed(0.5), weights=COUNTS, steps=2, progress=False)
    assert pair.seen == {0.5}


def plain_mean(pair, batch, step=0.0):
    value = pair.log_weights(batch, 1).log_w.mean(0)
    return value, value.mean()


def test_an_objective_with_a_mean_of_its_own_is_refused():
    with pytest.raises(ppvae.ContractError, match=r"plain mean over data points.*mean_over_data"):
        ppvae.fit(linear(), X, FunctionObjective(plain_mean), weights=COUNTS, steps=1, progress=False)
    ppvae.fit(linear(), X, FunctionObjective(plain_mean), steps=1, progress=False)


@pytest.mark.parametrize("fit", ["fit", "fit_em"])
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(5), r"found \[5\], expected one for each data point, \[12\]"),
        (torch.ones(12, 1), r"found \[12, 1\]"),
        (3.0, "found float"),
        ([1.0] * 11 + [-0.5], "found -0.5 for data point 11"),
        ([float("nan")] * 2 + [1.0] * 10, r"found nan for data point 0 \(2 such"),
        ([float("inf")] + [1.0] * 11, "found inf for data point 0"),
        ([0.0] * 12, "found 0 for all"),
    ],
)
def test_bad_weights_are_refused(fit, weights, words):
    pair = mixture()
    with pytest.raises(ValueError, match=f"weights: {words}"):
        getattr(ppvae, fit)(pair, X, weights=weights, **({"steps": 1, "progress": False} if fit == "fit" else {}))


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical", "tied"])
@pytest.mark.parametrize("hard", [False, True])
def test_em_is_that_of_repeated_data(covariance, hard):
    settings = {"init": X[[0, 2]].clone(), "hard": hard, "covariance_floor": 1e-3}
    pairs = [GaussianMixture(2, 3, covariance).double() for _ in range(2)]
    found = ppvae.fit_em(pairs[0], X, weights=COUNTS, max_iterations=20, **settings)
    expected = ppvae.fit_em(pairs[1], TWICE, max_iterations=20, **settings)
    torch.testing.assert_close(found.history, expected.history)
    for a, b in zip(*(pair.parameters() for pair in pairs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_em_starts_at_data_points_that_count(init):
    """Points of weight zero are far away: a start at one would leave a component there."""
    x = torch.cat([X, X[:1] + 1e3, X[:1] - 1e3])
    weights = torch.cat([torch.ones(12), torch.zeros(2)])
    for seed in range(5):
        pair = GaussianMixture(3, 3).double()
        ppvae.fit_em(pair, x, weights=weights, init=init, seed=seed, max_iterations=3, covariance_floor=0.1)
        assert pair.means.abs().max() < 10
    with pytest.raises(ValueError, match="found 2 data points, expected at least one for each of 3"):
        ppvae.fit_em(GaussianMixture(3, 3), X, weights=[1, 1] + [0] * 10)


def test_a_pair_of_single_precision():
    torch.manual_seed(0)
    pair = VAE.mlp(3, 2, [8])
    ppvae.fit(pair, X.gt(0), weights=COUNTS, steps=3, progress=False)
    assert all(p.dtype == torch.float32 for p in pair.parameters())


@pytest.mark.parametrize("transform", [lambda x: x.repeat(2, 1), lambda x: x[:1]])
def test_a_transform_that_makes_other_data_points_of_them_is_refused(transform):
    """One row would be weighed by all weights."""
    with pytest.raises(ValueError, match=r"transform: found that it makes \d+ data points of 12, which have weights"):
        ppvae.fit(linear(), X, weights=COUNTS, steps=1, transform=transform, progress=False)


@pytest.mark.parametrize(
    "objective",
    [
        ppvae.ELBO(free_bits=0.1),
        ppvae.ELBO(2, beta=0.5, balance=True),
        ppvae.BetaTCVAE(),
        ppvae.DIPVAE(),
        ppvae.FactorVAE(),
    ],
    ids=str,
)
def test_a_batch_counts_by_its_weights_and_is_seen_as_one_of_equal_sum(objective):
    """Free bits, shares and prices look at what a batch is like, whatever it counts for."""
    pair, found = LatentCritic(linear(), torch.nn.Linear(2, 1).double()), []
    weights = COUNTS.double() / 10
    for times in (1, 5):
        torch.manual_seed(2)
        _, own = gradients(pair, objective, X, times * weights)
        found.append([g / times for g in own])
    torch.testing.assert_close(found[0], found[1])
