"""GaussianMixture: its closed forms against scikit-learn, its gap, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture

from ppvae.inference import EnumeratedELBO
from ppvae.models import GaussianMixture

COVARIANCES = {"full": "full", "diagonal": "diag", "spherical": "spherical", "tied": "tied"}
C, D = 3, 4


@pytest.fixture(params=COVARIANCES)
def covariance(request) -> str:
    return request.param


def data(num: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(C, D, generator=generator, dtype=torch.float64)
    which = torch.randint(C, (num,), generator=generator)
    return centers[which] + torch.randn(num, D, generator=generator, dtype=torch.float64) @ torch.randn(
        D, D, generator=generator, dtype=torch.float64
    )


def fitted(covariance: str, guide: str = "exact") -> tuple[GaussianMixture, SklearnMixture]:
    """A mixture that scikit-learn has fitted, and ours with the same parameters."""
    sklearn = SklearnMixture(C, covariance_type=COVARIANCES[covariance], random_state=0).fit(data().numpy())
    torch.manual_seed(0)
    ours = GaussianMixture(C, D, covariance, guide).double()
    ours.assign(
        weights=torch.tensor(sklearn.weights_),
        means=torch.tensor(sklearn.means_),
        covariances=torch.tensor(sklearn.covariances_),
    )
    return ours, sklearn


def test_closed_forms_are_scikit_learns(covariance):
    ours, sklearn = fitted(covariance)
    x = data(50)
    torch.testing.assert_close(ours.log_prob(x).detach(), torch.tensor(sklearn.score_samples(x.numpy())))
    torch.testing.assert_close(ours.responsibilities(x).detach(), torch.tensor(sklearn.predict_proba(x.numpy())))
    torch.testing.assert_close(ours.weights.detach(), torch.tensor(sklearn.weights_))
    torch.testing.assert_close(ours.covariances.detach(), torch.tensor(sklearn.covariances_))
    assert ours.num_parameters == sklearn._n_parameters()
    assert ours.bic(x) == pytest.approx(sklearn.bic(x.numpy()), rel=1e-12)
    assert ours.aic(x) == pytest.approx(sklearn.aic(x.numpy()), rel=1e-12)


def test_log_prob_is_a_mixture_of_pyro_normals(covariance):
    ours, _ = fitted(covariance)
    x = data(20)
    each = torch.distributions.MultivariateNormal(ours.means, scale_tril=ours.scale_tril).log_prob(x[:, None])
    torch.testing.assert_close(ours.log_prob(x), (ours.weights.log() + each).logsumexp(1))
    torch.testing.assert_close(ours.log_prob(x), super(GaussianMixture, ours).log_prob(x))


@pytest.mark.parametrize("ratio", [1e2, 1e5, 1e8])
def test_components_may_be_narrow_and_far_from_each_other(covariance, ratio):
    """Their distance is 2 `ratio` standard deviations, whose square is all digits of double precision and more."""
    mixture = GaussianMixture(2, D, covariance).double()
    mixture.assign(means=torch.tensor([[-ratio], [ratio]]).expand(2, D).double())
    near = torch.randn(40, D, dtype=torch.float64)
    x = mixture.means.detach()[torch.arange(40) % 2] + near
    at = x - mixture.means.detach()[torch.arange(40) % 2]  # as they are once rounded
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(at).sum(-1) - np.log(2)
    torch.testing.assert_close(mixture.log_prob(x).detach(), exact, rtol=0, atol=1e-12)
    found = mixture.e_step(x)
    torch.testing.assert_close(found.log_likelihood, exact, rtol=0, atol=1e-7)
    each = torch.stack([at[::2], at[1::2]])
    variance = found.moments.covariance
    variance = variance.diagonal(dim1=-2, dim2=-1) if variance.dim() == 3 else variance
    torch.testing.assert_close(found.moments.mean - mixture.means.detach(), each.mean(1), rtol=0, atol=1e-15 * ratio)
    torch.testing.assert_close(variance, each.var(1, correction=0), rtol=0, atol=1e-7)


def test_density_does_not_depend_on_the_block_size(covariance, monkeypatch):
    ours, _ = fitted(covariance)
    x = data(50)
    whole, step = ours.log_prob(x), ours.e_step(x)
    monkeypatch.setattr("ppvae.models.exact.gaussian_moments._BLOCK_FLOATS", {"cpu": 100})
    torch.testing.assert_close(ours.log_prob(x), whole)
    torch.testing.assert_close(ours.e_step(x).moments.covariance, step.moments.covariance)


def test_gap_of_the_exact_guide_is_zero(covariance):
    ours, _ = fitted(covariance)
    x = data(50)
    log_w = ours.log_weights(x, num_particles=5).log_w
    assert log_w.shape == (5, 50)
    assert (log_w - ours.log_prob(x)).abs().max() < 1e-5
    assert ours.exact_gap(x).abs().max() < 1e-12


def test_gap_of_the_amortized_guide_is_measured(covariance):
    ours, _ = fitted(covariance, guide="amortized")
    x = data(4)
    with torch.no_grad():
        gaps, exact = ours.log_prob(x) - ours.log_weights(x, num_particles=20_000).log_w, ours.exact_gap(x)
    std_error = gaps.std(0) / len(gaps) ** 0.5
    assert (exact > 1e-3).all()
    assert ((gaps.mean(0) - exact).abs() < 4 * std_error).all()


def test_elbo_of_the_exact_guide_has_the_gradient_of_the_evidence(covariance):
    ours, _ = fitted(covariance)
    x = data(10)
    parameters = [ours.logits, ours.means, ours.raw_scale]
    exact = torch.autograd.grad(ours.log_prob(x).sum(), parameters)
    drawn = torch.autograd.grad(ours.log_weights(x).log_w.sum(), parameters)  # no noise: log w = log p(x), whatever c
    for one, other in zip(exact, drawn, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("guide", ["exact", "amortized"])
def test_enumerated_elbo_is_evidence_less_gap(covariance, guide):
    ours, _ = fitted(covariance, guide)
    x = data(10)
    value, _ = EnumeratedELBO()(ours, x)
    torch.testing.assert_close(value, ours.log_prob(x) - ours.exact_gap(x))


def test_svi_trains_the_amortized_guide():
    ours, _ = fitted("full", guide="amortized")
    x = data(100)
    before = ours.exact_gap(x).mean()
    optimizer = torch.optim.Adam(ours.encoder.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        EnumeratedELBO()(ours, x)[1].sum().neg().backward()
        optimizer.step()
    assert ours.exact_gap(x).mean() < before / 10


def test_samples_have_the_mixtures_moments(covariance):
    ours, _ = fitted(covariance)
    torch.manual_seed(0)
    x = ours.sample(20_000)
    mean = ours.weights @ ours.means
    assert x.shape == (20_000, D)
    assert ((x.mean(0) - mean).abs() < 4 * x.std(0) / 20_000**0.5).all()
    assert (ours.log_prob(x).mean() - ours.log_prob(ours.sample(20_000)).mean()).abs() < 0.1


def test_float32_keeps_narrow_components_far_from_the_origin(covariance):
    """Distances of 1e3 standard deviations: squared in float32 they would be wrong by nats."""
    means = torch.tensor([[1000.0], [1001.0]])
    ours = GaussianMixture(2, 1, covariance)
    ours.assign(means=means, covariances=torch.full_like(ours.covariances, 1e-6))
    x = means + torch.tensor([[0.0], [1 / 1024]])
    exact = torch.distributions.Normal(means[:, 0].double(), ours.scale_tril[:, 0, 0].double()).log_prob(
        x[:, 0].double()
    )
    torch.testing.assert_close(ours.log_prob(x).double(), exact - np.log(2), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(5), ValueError, r"found shape \[5\], expected \[N, 4\]"),
        (torch.zeros(5, 3), ValueError, r"found shape \[5, 3\]"),
        (torch.zeros(0, 4), ValueError, "N >= 1"),
        (torch.zeros(5, 4).double(), TypeError, r"found dtype torch.float64, expected the mixture's torch.float32"),
        (torch.zeros(5, 4, dtype=torch.long), TypeError, "found dtype torch.int64"),
        (torch.zeros(5, 4).index_fill(0, torch.tensor([3]), torch.nan), ValueError, "in row 3 "),
    ],
)
def test_bad_data_are_refused(x, error, message):
    for method in (
        GaussianMixture(C, D).log_prob,
        GaussianMixture(C, D).responsibilities,
        GaussianMixture(C, D).exact_gap,
    ):
        with pytest.raises(error, match=message):
            method(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "num_components: found 0, expected at least 1"),
        ((2, 2, "diag"), "covariance: found 'diag', expected one of 'full', 'diagonal'"),
        ((2, 2, "full", "none"), "guide: found 'none'"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_bad_parameters_are_refused():
    mixture = GaussianMixture(2, 2, covariance="diagonal")
    with pytest.raises(ValueError, match=r"means: found shape \[2\], expected \[2, 2\]"):
        mixture.assign(means=torch.zeros(2))
    with pytest.raises(ValueError, match="weights: found"):
        mixture.assign(weights=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"not positive definite at index \[1, 0\]"):
        mixture.assign(covariances=torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
