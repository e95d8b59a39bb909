"""Diffusion against Gaussian data, where the bound and p(x) are closed forms, and against its own hierarchy."""

from pathlib import Path

import pytest
import torch
from support.diffusion_oracle import covariance, exact_elbo, exact_terms, integrated_terms, marginal, optimal
from torch import nn

import ppvae
from ppvae.inference import ELBO, SingleTermELBO
from ppvae.models import DiffusionVAE, MLPDenoiser, UNet

pytestmark = pytest.mark.usefixtures("float64")

PAGE = Path(__file__).parents[3] / "docs" / "diffusion.md"

SETTINGS = [
    ("cosine", "x", "posterior"),
    ("linear", "eps", "posterior"),
    ("learned", "v", "posterior"),
    ("cosine", "v", "upper"),
]


def table(heading):
    """The rows of the page's table under a heading, without its head."""
    section = PAGE.read_text().split(f"## {heading}")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def data(num):
    return torch.distributions.MultivariateNormal(torch.zeros(3), covariance()).sample((num,))


def repeated(objective, pair, x, repeats=4000):
    """`[repeats, B]`, all in one batch."""
    with torch.no_grad():
        return objective(pair, x.repeat(repeats, *(1,) * (x.dim() - 1)))[0].reshape(repeats, -1)


@pytest.mark.parametrize(("schedule", "parameterization", "variance"), SETTINGS)
@pytest.mark.parametrize(
    "objective",
    [ELBO(kl="analytic"), ELBO(kl="monte_carlo"), SingleTermELBO(), SingleTermELBO(stratified=False)],
    ids=["analytic", "Monte Carlo", "single term", "single term, independent"],
)
def test_every_bound_has_the_exact_mean(objective, schedule, parameterization, variance, assert_mean):
    pair, x = optimal(4, schedule, parameterization, variance), data(5)
    assert_mean(repeated(objective, pair, x), exact_elbo(pair, x).detach())


@pytest.mark.parametrize(("schedule", "parameterization", "variance"), SETTINGS)
def test_each_term_has_its_exact_mean(schedule, parameterization, variance):
    """To rounding; so the single-term estimate is unbiased: its mean over t is their sum over T."""
    pair, x = optimal(6, schedule, parameterization, variance), data(5)
    terms, top = exact_terms(pair, x)
    torch.testing.assert_close(integrated_terms(pair, x), (terms + top / 6).detach(), rtol=1e-9, atol=1e-9)


class Constant(nn.Module):
    """Denoises without looking."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x, gamma):
        return self.value.expand_as(x)


@pytest.mark.parametrize("variance", ["posterior", "upper"])
def test_terms_sum_to_the_bound_of_the_hierarchy_exactly(variance):
    """Of a denoiser that does not look all terms are numbers, so that the sum over t can be enumerated."""
    pair = DiffusionVAE(Constant(), [2], 5, schedule="learned", parameterization="x", variance=variance)
    pair.init_from(3 + 2 * torch.randn(100, 2))
    x = torch.randn(4, 2)
    total = sum(pair.elbo_term(x, torch.full((4,), i)) for i in range(5))
    torch.testing.assert_close(total, ELBO(kl="analytic")(pair, x)[0], rtol=1e-12, atol=0)


def networks():
    x = torch.randn(6, 1, 5, 5)
    return {
        "vectors": (DiffusionVAE(MLPDenoiser(25, [16]), [25], 3), x.flatten(1)),
        "images": (DiffusionVAE(UNet((1, 5, 5), [4, 8]), [1, 5, 5], 3), x),
        "bits": (DiffusionVAE(UNet((1, 5, 5), [4, 8]), [1, 5, 5], 3, "bernoulli"), (x > 0).double()),
    }


@pytest.mark.parametrize("kind", ["vectors", "images", "bits"])
def test_single_term_bound_is_that_of_the_hierarchy(kind):
    """Must-show 5: within three standard errors, with networks, against ELBOs that know nothing of diffusion."""
    pair, x = networks()[kind]
    pair.init_from(x)
    pair.check(x)
    single, analytic, monte_carlo = (
        repeated(objective, pair, x, repeats=500).mean(1)
        for objective in (SingleTermELBO(), ELBO(kl="analytic"), ELBO(kl="monte_carlo"))
    )
    for generic in (analytic, monte_carlo):
        z = (single.mean() - generic.mean()) / ((single.var() + generic.var()) / 500).sqrt()
        assert z.abs() < 3


@pytest.mark.parametrize("variance", ["posterior", "upper"])
def test_parameterizations_agree_as_functions(variance):
    """Where the network's output is converted, to rounding: in every site's log probability, and in single terms."""
    x = data(5)
    pairs = [optimal(4, parameterization=p, variance=variance) for p in ("x", "eps", "v")]
    weights, terms = [], []
    for pair in pairs:
        torch.manual_seed(0)
        weights.append(pair.log_weights(x, 7))
        terms.append(pair.elbo_term(x, torch.arange(5) % 4))
    for other in weights[1:]:
        for site, log_p in weights[0].log_p_sites.items():
            torch.testing.assert_close(other.log_p_sites[site], log_p, rtol=1e-8, atol=1e-8)
    for other in terms[1:]:
        torch.testing.assert_close(other, terms[0], rtol=1e-8, atol=1e-8)


def test_guide_is_the_noising_process(assert_mean):
    """Drawn from the top, it has the marginals and the correlations of noise added from the bottom."""
    pair, x = optimal(3), torch.tensor([[1.0, -2.0, 0.5]])
    with torch.no_grad():
        latents = pair.latents(x, 50_000)
    gamma = pair.levels()
    for t in range(3):
        z, alpha, variance = latents[f"x{t + 1}"][:, 0], (-gamma[t]).sigmoid().sqrt(), gamma[t].sigmoid()
        residual = z - alpha * x
        assert_mean(z, (alpha * x)[0])
        assert_mean(residual.square(), variance)
        for s in range(t):
            alpha_s, variance_s = (-gamma[s]).sigmoid().sqrt(), gamma[s].sigmoid()
            below = latents[f"x{s + 1}"][:, 0] - alpha_s * x
            assert_mean(residual * below, alpha / alpha_s * variance_s)


def gaps(schedule, variance, steps):
    """`log N(x; 0, S) - ELBO` of optimal denoisers, in the mean over data."""
    x, truth = data(100), torch.distributions.MultivariateNormal(torch.zeros(3), covariance())
    pairs = [optimal(T, schedule, variance=variance) for T in steps]
    return torch.stack([(truth.log_prob(x) - integrated_terms(pair, x).sum(0)).mean() for pair in pairs])


@pytest.mark.parametrize(
    ("schedule", "variance"), [("cosine", "upper"), ("linear", "upper"), ("learned", "upper"), ("learned", "posterior")]
)
def test_bound_reaches_log_p_like_one_over_the_steps(schedule, variance):
    steps = torch.tensor([64, 128, 256, 512])
    found = gaps(schedule, variance, steps.tolist())
    slopes = found.log().diff() / steps.log().diff()
    assert (found > 0).all()
    assert ((slopes + 1).abs() < 0.06).all(), slopes
    assert found[-1] < 0.25


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_variance_of_the_posterior_leaves_a_gap_if_the_schedule_begins_without_noise(schedule):
    assert (gaps(schedule, "posterior", [64, 512]) > 1).all()


@pytest.mark.parametrize("row", table("What the bound costs"), ids=" ".join)
def test_the_pages_table(row):
    """The gap is quadratic in x, so that its mean over data is that over six points."""
    points = 3**0.5 * torch.linalg.cholesky(covariance()).T
    truth, x = torch.distributions.MultivariateNormal(torch.zeros(3), covariance()), torch.cat([points, -points])
    for num_steps, said in zip([8, 32, 128, 512], row[2:], strict=True):
        pair = optimal(num_steps, row[0].split(",")[0], variance=row[1])
        found = (truth.log_prob(x) - integrated_terms(pair, x).sum(0)).mean().item()
        decimals = len(said.partition(".")[2])
        assert abs(found - float(said)) <= 0.51 * 10**-decimals


@pytest.mark.parametrize("variance", ["posterior", "upper"])
def test_bound_is_below_the_pairs_own_log_p(variance):
    """By the exact gap, which importance weights find too."""
    pair, x = optimal(3, variance=variance), data(20)
    log_p = marginal(pair).log_prob(x).detach()
    assert (exact_elbo(pair, x) < log_p).all()
    found = ppvae.log_evidence(pair, x, "iwae", num_particles=20_000, seed=0, progress=False)
    z = (found.estimate - log_p) / found.std_error
    assert z.abs().max() < 4


def test_start_at_the_data():
    """Data are standardized by two numbers, and sigma starts where x_1 has its noise."""
    pair, x = DiffusionVAE(MLPDenoiser(2, [4]), [2], 5), 3 + 2 * torch.randn(1000, 2)
    pair.init_from(x)
    assert (pair.loc, pair.scale) == (x.mean(), x.std())
    torch.testing.assert_close(pair.likelihood.sigma(x), x.std() * pair.levels()[0].sigmoid().sqrt())
    top = pair.latents(x, 1)["x5"][0]
    assert abs(top.mean()) < 4 / 2000**0.5
    assert abs(top.var() - 1) < 4 * (2 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps: found 0, expected at least 1"),
        ({"parameterization": "score"}, "parameterization: found 'score', expected one of"),
        ({"variance": "learned"}, "variance: found 'learned', expected 'posterior' or 'upper'"),
        ({"schedule": "sigmoid"}, "schedule: found 'sigmoid', expected one of"),
        ({"likelihood": "poisson"}, "likelihood: found 'poisson', expected one of 'gaussian', 'bernoulli'"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionVAE(MLPDenoiser(2, [4]), [2], **({"num_steps": 3} | settings))


@pytest.mark.parametrize("value", [1.0, 0.1, 7.7])
def test_data_without_spread_are_refused(value):
    with pytest.raises(ValueError, match="x: found data without any spread"):
        DiffusionVAE(MLPDenoiser(2, [4]), [2], 3).init_from(torch.full((7, 2), value))
