"""Linear Gaussian modalities against one dense Gaussian of what is there, for every pattern."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import ppvae
from ppvae.models import LinearModalities, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
SIZES = {"a": 3, "b": 4, "c": 2}
PATTERNS = torch.tensor(list(itertools.product([True, False], repeat=3)))
quiet = {"seed": 0, "progress": False}


def modalities(guide="product", num_latents=2, orthogonal=False, sizes=SIZES):
    torch.manual_seed(0)
    pair = LinearModalities(sizes, num_latents, guide).requires_grad_(False)
    for likelihood in pair.likelihoods.values():
        likelihood.unconstrained_sigma += 0.3 * torch.randn(())
        weight = torch.randn_like(likelihood.network.weight)
        if orthogonal:
            weight = torch.linalg.qr(weight).Q * torch.linspace(0.5, 1.5, num_latents)
        likelihood.network.weight.copy_(weight)
    return pair.fit_guide()


def batch(has=PATTERNS, sizes=SIZES):
    torch.manual_seed(1)
    return {name: torch.randn(len(has), size) for name, size in sizes.items()} | {"has": has}


def dense(pair, has):
    """W, the means and the noise of the modalities that are there, one below the other."""
    there = [likelihood for likelihood, own in zip(pair.likelihoods.values(), has.tolist(), strict=True) if own]
    weight = torch.cat([each.network.weight for each in there])
    noise = torch.cat([each.sigma(None).expand(len(each.network.bias)) for each in there])
    return weight, torch.cat([each.network.bias for each in there]), noise


def shown(x, row):
    return torch.cat([x[name][row] for m, name in enumerate(SIZES) if x["has"][row, m]])


def test_evidence_and_posterior_are_the_dense_gaussians_for_every_pattern():
    pair, x = modalities(), batch()
    log_prob, posterior = pair.log_prob(x), pair.true_posterior(x)
    for row, has in enumerate(PATTERNS[:-1]):
        weight, mean, noise = dense(pair, has)
        marginal = dist.MultivariateNormal(mean, weight @ weight.T + noise.square().diag())
        torch.testing.assert_close(log_prob[row], marginal.log_prob(shown(x, row)))
        gain = weight.T @ torch.linalg.inv(marginal.covariance_matrix)
        torch.testing.assert_close(posterior.mean[row], gain @ (shown(x, row) - mean))
        torch.testing.assert_close(posterior.covariance_matrix[row], torch.eye(2) - gain @ weight)
    assert log_prob[-1] == 0
    torch.testing.assert_close(posterior.covariance_matrix[-1], torch.eye(2))


def test_exact_guide_is_the_posterior_for_every_pattern():
    pair, x = modalities("exact"), batch()
    torch.testing.assert_close(pair.log_weights(x, 20).log_w, pair.log_prob(x).expand(20, 8))
    torch.testing.assert_close(pair.exact_gap(x), torch.zeros(8), rtol=0, atol=1e-12)


def test_product_is_the_posterior_where_columns_are_orthogonal():
    pair, x = modalities(orthogonal=True), batch()
    torch.testing.assert_close(pair.log_weights(x, 20).log_w, pair.log_prob(x).expand(20, 8))
    torch.testing.assert_close(pair.exact_gap(x), torch.zeros(8), rtol=0, atol=1e-12)
    torch.testing.assert_close(pair.factorized_gap(PATTERNS), torch.zeros(8), rtol=0, atol=1e-12)


def test_products_gap_is_the_factorized_one_and_what_its_mean_is_off():
    """It has the precisions of the best diagonal Gaussian, so the rest is `d' P d / 2`, d how far its mean is off."""
    pair, x = modalities(), batch()
    posterior = pair.true_posterior(x)
    off = pair.encode(x).mean - posterior.mean
    torch.testing.assert_close(pair.encode(x).std[:, 0], posterior.precision_matrix[:, 0, 0].rsqrt())
    distance = torch.einsum("bi,bij,bj->b", off, posterior.precision_matrix, off)
    expected = pair.factorized_gap(PATTERNS) + distance / 2
    torch.testing.assert_close(pair.exact_gap(x), expected)
    measured = ppvae.elbo(pair, x, 4000, **quiet)
    assert ((measured.estimate - pair.exact_elbo(x)).abs() < 4.5 * measured.std_error + 1e-9).all()


def expected_by_quadrature(pair, x, row):
    """log p(x), and the ELBO of the guide, as integrals over a grid of one latent."""
    grid = torch.linspace(-12, 12, 20001)
    one = {name: t[row : row + 1] for name, t in x.items()}
    q = pair.shared_posterior(*pair.split(one))
    log_q = q.log_prob(grid[:, None, None])[:, 0]
    log_p = dist.Normal(0.0, 1.0).log_prob(grid)
    for m, (name, likelihood) in enumerate(pair.likelihoods.items()):
        log_p = log_p + x["has"][row, m] * likelihood(grid[:, None]).log_prob(one[name])
    step = grid[1] - grid[0]
    return (log_p.exp().sum() * step).log(), (log_q.exp() * (log_p - log_q)).sum() * step


@pytest.mark.parametrize("guide", ["mixture", "mixture of products"])
def test_a_mixtures_gap_is_its_integral(guide):
    """Each component is the exact posterior of its subset, and still mixing them costs."""
    pair, x = modalities(guide, num_latents=1), batch()
    found = [expected_by_quadrature(pair, x, row) for row in range(8)]
    log_prob, elbo = (torch.stack(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(log_prob, pair.log_prob(x))
    measured = ppvae.elbo(pair, x, 20000, **quiet)
    assert ((measured.estimate - elbo).abs() < 4.5 * measured.std_error + 1e-9).all()
    gap = log_prob - elbo
    single = PATTERNS.sum(-1) <= 1
    torch.testing.assert_close(gap[single], torch.zeros(4), rtol=0, atol=1e-9)
    assert (gap[~single] > 0.02).all()


def test_full_subset_is_the_product():
    product, x = modalities(), batch()
    full = ppvae.models.MixtureOfProducts(dict(product.posterior.experts), [list(SIZES)])
    z = torch.randn(5, 8, 2)
    values, has = product.split(x)
    torch.testing.assert_close(full(values, has).log_prob(z), product.posterior(values, has).log_prob(z))


def test_single_subsets_are_the_mixture_of_experts():
    """Each expert with the prior, in equal parts of those that are there."""
    pair, x = modalities("mixture"), batch()
    z = torch.randn(5, 8, 2)
    densities = []
    for name in SIZES:
        expert = pair.posterior.experts[name](x[name]).base_dist
        precision = 1 + expert.scale**-2
        own = dist.Normal(expert.loc * expert.scale**-2 / precision, precision.rsqrt()).to_event(1)
        densities.append(own.log_prob(z).exp())
    each = torch.stack(densities, -1)
    expected = (each * PATTERNS).sum(-1)[:, :-1] / PATTERNS.sum(-1)[:-1]
    found = pair.posterior(*pair.split(x)).log_prob(z)
    torch.testing.assert_close(found[:, :-1].exp(), expected)
    torch.testing.assert_close(found[:, -1], dist.Normal(0.0, 1.0).expand([2]).to_event(1).log_prob(z[:, -1]))


def test_all_subsets_are_equally_mixed_products_of_what_is_there():
    """With two of three modalities there, a third each: the first, the second, both."""
    pair, x = modalities("mixture of products"), batch()
    row = PATTERNS.tolist().index([True, True, False])
    values, has = pair.split({name: t[row : row + 1] for name, t in x.items()})
    z = torch.randn(5, 1, 2)
    product = ppvae.models.ProductOfExperts(dict(pair.posterior.experts))
    subsets = torch.tensor([[[True, False, False]], [[False, True, False]], [[True, True, False]]])
    each = torch.stack([product(values, subset).log_prob(z).exp() for subset in subsets])
    torch.testing.assert_close(pair.posterior(values, has).log_prob(z).exp(), each.mean(0))


def test_one_modality_is_the_linear_vae():
    pair, linear = modalities("exact", sizes={"a": 5}), LinearVAE(5, 2, guide="exact").requires_grad_(False)
    likelihood = pair.likelihoods["a"]
    linear.weight.copy_(likelihood.network.weight)
    linear.mean.copy_(likelihood.network.bias)
    linear.log_sigma.copy_(likelihood.sigma(None).log())
    x = torch.randn(4, 5)
    torch.testing.assert_close(pair.log_prob({"a": x}), linear.log_prob(x))
    torch.testing.assert_close(pair.factorized_gap(torch.ones(1, 1, dtype=torch.bool))[0], linear.factorized_gap())
    q, p = pair.true_posterior({"a": x}), linear.posterior(x)
    torch.testing.assert_close(kl_divergence(q, p), torch.zeros(4), rtol=0, atol=1e-12)


def test_generation_from_a_part_has_the_moments_of_the_dense_conditional():
    pair, K = modalities("exact"), 40000
    x = batch(torch.tensor([[True, False, False]]))
    torch.manual_seed(2)
    found = pair.generate(x, K)["b"][:, 0]
    posterior, likelihood = pair.true_posterior(x), pair.likelihoods["b"]
    weight = likelihood.network.weight
    covariance = weight @ posterior.covariance_matrix[0] @ weight.T + likelihood.sigma(None) ** 2 * torch.eye(4)
    expected = dist.MultivariateNormal(likelihood.network(posterior.mean[0]), covariance)
    error = (covariance.diagonal() / K).sqrt()
    assert ((found.mean(0) - expected.mean).abs() < 4.5 * error).all()
    whitened = torch.linalg.solve(expected.scale_tril, (found - expected.mean).T)
    assert (whitened @ whitened.T / K - torch.eye(4)).abs().max() < 4.5 * (2 / K) ** 0.5


@pytest.mark.parametrize("guide", ["product", "exact"])
@pytest.mark.parametrize("filler", [1e5, 9.97e36])
def test_closed_forms_do_not_see_what_stands_in_for_missing_data(guide, filler):
    torch.manual_seed(0)
    pair = LinearModalities({"a": 3, "b": 1}, 2, guide).float()
    x = {"a": torch.randn(3, 3), "b": torch.randn(3, 1)}
    has = torch.tensor([[True, False], [False, True], [False, False]])
    zeros, filled = (
        {name: torch.where(has[:, m, None], x[name], value) for m, name in enumerate(x)} | {"has": has}
        for value in (0.0, filler)
    )
    for of in (pair.log_prob, pair.exact_gap, pair.exact_elbo, lambda batch: pair.true_posterior(batch).mean):
        torch.testing.assert_close(of(filled), of(zeros), rtol=0, atol=0)


def test_a_mixtures_divergence_is_refused():
    with pytest.raises(NotImplementedError, match=r"exact_gap: found a mixture as guide; use ppvae.gap"):
        modalities("mixture").exact_gap(batch())
