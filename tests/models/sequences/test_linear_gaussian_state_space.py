"""Kalman's recursions against one dense Gaussian of the whole sequence, and against Pyro's."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import ppvae
from ppvae.models import LinearGaussianStateSpace, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
FEATURES, LATENTS, STEPS = 3, 2, 6
LENGTHS = torch.tensor([6, 1, 4, 2, 6])


def state_space(guide="mean_field", num_latents=LATENTS):
    torch.manual_seed(0)
    pair = LinearGaussianStateSpace(FEATURES, num_latents, guide)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return pair.requires_grad_(False)


def sequences():
    return torch.randn(5, STEPS, FEATURES, generator=torch.Generator().manual_seed(1))


def dense(pair, num_steps):
    """The prior of the latents, of all steps together, as precision; the map to the data; and the data's mean."""
    D = len(pair.log_scales)
    noise = torch.cat([torch.ones(D), pair.log_scales.exp().repeat(num_steps - 1)])
    shifted = torch.zeros(num_steps, num_steps)
    shifted[range(1, num_steps), range(num_steps - 1)] = 1.0
    residual = torch.eye(D * num_steps) - torch.kron(shifted, pair.dynamics)
    precision = residual.T @ (noise**-2).diag() @ residual
    return precision, torch.kron(torch.eye(num_steps), pair.weight), pair.mean.repeat(num_steps)


def dense_marginal(pair, num_steps):
    precision, weight, mean = dense(pair, num_steps)
    covariance = weight @ torch.linalg.solve(precision, weight.T)
    return dist.MultivariateNormal(mean, covariance + (2 * pair.log_sigma).exp() * torch.eye(len(mean)))


def dense_posterior(pair, x):
    precision, weight, mean = dense(pair, x.shape[1])
    own = precision + weight.T @ weight * (-2 * pair.log_sigma).exp()
    loc = torch.linalg.solve(own, ((x.flatten(1) - mean) @ weight * (-2 * pair.log_sigma).exp()).mT).mT
    return dist.MultivariateNormal(loc, precision_matrix=own)


@pytest.mark.parametrize("num_steps", [1, 2, STEPS])
def test_evidence_is_the_dense_gaussians(num_steps):
    pair, x = state_space(), sequences()[:, :num_steps]
    torch.testing.assert_close(pair.log_prob(x), dense_marginal(pair, num_steps).log_prob(x.flatten(1)))


def test_evidence_is_that_of_pyros_filter():
    """Pyro's chain starts a step earlier: at a deterministic state, which the first transition, ours, spreads."""
    pair, x, D = state_space(), sequences(), LATENTS
    scales = pair.log_scales.exp().expand(STEPS, D).clone()
    scales[0] = 1.0
    dynamics = pair.dynamics.expand(STEPS, D, D).clone()
    dynamics[0] = 0.0
    hmm = dist.GaussianHMM(
        dist.Normal(torch.zeros(D), 1.0).to_event(1),
        dynamics.mT,
        dist.Normal(torch.zeros(D), scales).to_event(1),
        pair.weight.T,
        dist.Normal(pair.mean, pair.log_sigma.exp()).to_event(1),
        duration=STEPS,
    )
    torch.testing.assert_close(pair.log_prob(x), hmm.log_prob(x))


def test_smoothed_marginals_are_the_dense_posteriors():
    pair, x = state_space(), sequences()
    smoothed, posterior = pair.smoothed(x), dense_posterior(pair, x)
    torch.testing.assert_close(smoothed.mean.flatten(1), posterior.mean)
    blocks = posterior.covariance_matrix[0].reshape(STEPS, LATENTS, STEPS, LATENTS)
    expected = torch.stack([blocks[t, :, t] for t in range(STEPS)])
    torch.testing.assert_close(smoothed.covariance_matrix, expected.expand(5, -1, -1, -1))


def test_exact_guide_is_the_posterior():
    pair = state_space("exact")
    for batch in (sequences(), (sequences(), LENGTHS)):
        torch.testing.assert_close(pair.log_weights(batch, 20).log_w, pair.log_prob(batch).expand(20, 5))
        assert torch.equal(pair.exact_gap(batch), torch.zeros(5))


def test_mean_field_guides_gap_is_its_divergence_from_the_dense_posterior():
    pair, x = state_space(), sequences()
    q = pair.posterior(x, None)
    marginals = [q(t, None).base_dist for t in range(STEPS)]
    scale = torch.cat([each.scale.expand(5, -1) for each in marginals], -1)
    guide = dist.MultivariateNormal(torch.cat([each.loc for each in marginals], -1), scale_tril=scale.diag_embed())
    gap = kl_divergence(guide, dense_posterior(pair, x))
    torch.testing.assert_close(pair.exact_gap(x), gap)
    torch.testing.assert_close(pair.factorized_gap(STEPS).expand(5), gap)


def test_no_independent_guide_is_better():
    """The divergence from the posterior has no gradient in the guide's means and log scales."""
    pair, x = state_space(), sequences()[:1]
    q = pair.posterior(x, None)
    loc = torch.cat([q(t, None).mean[0] for t in range(STEPS)]).requires_grad_()
    log_scale = torch.cat([q(t, None).stddev[0].log() for t in range(STEPS)]).requires_grad_()
    posterior = dense_posterior(pair, x)
    gap = kl_divergence(dist.MultivariateNormal(loc, scale_tril=log_scale.exp().diag()), posterior)
    assert max(g.abs().max() for g in torch.autograd.grad(gap.sum(), [loc, log_scale])) < 1e-10


@pytest.mark.parametrize("padding", [0.0, 100.0, 1e200])
def test_padded_row_is_the_short_row(padding):
    pair, x = state_space(), sequences()
    padded = torch.where(torch.arange(STEPS).unsqueeze(-1) < LENGTHS[:, None, None], x, padding)
    log_prob, gap = pair.log_prob((padded, LENGTHS)), pair.exact_gap((padded, LENGTHS))
    smoothed = pair.smoothed((padded, LENGTHS)).mean
    for i, length in enumerate(LENGTHS.tolist()):
        short = x[i : i + 1, :length]
        torch.testing.assert_close(log_prob[i : i + 1], pair.log_prob(short))
        torch.testing.assert_close(gap[i], pair.factorized_gap(length))
        torch.testing.assert_close(smoothed[i : i + 1, :length], pair.smoothed(short).mean)


def test_past_the_end_the_smoother_forecasts():
    pair, x = state_space(), sequences()
    mean = pair.smoothed((x, torch.full((5,), 4))).mean
    torch.testing.assert_close(mean[:, 5], mean[:, 3] @ pair.dynamics.T @ pair.dynamics.T)


def test_one_step_is_the_linear_vae():
    pair, linear = state_space(), LinearVAE(FEATURES, LATENTS)
    with torch.no_grad():
        linear.weight.copy_(pair.weight)
        linear.log_sigma.copy_(pair.log_sigma)
        linear.mean.copy_(pair.mean)
    x = sequences()[:, :1]
    torch.testing.assert_close(pair.log_prob(x), linear.log_prob(x[:, 0]))
    torch.testing.assert_close(pair.factorized_gap(1), linear.factorized_gap())
    torch.testing.assert_close(pair.smoothed(x).mean[:, 0], linear.posterior(x[:, 0]).mean)


def test_measured_gap_is_the_closed_form():
    pair, x = state_space(), sequences()
    for batch in (x, (x, LENGTHS)):
        measured = ppvae.elbo(pair, batch, 4000, seed=0, progress=False)
        assert ((measured.estimate - pair.exact_elbo(batch)).abs() < 4 * measured.std_error + 1e-9).all()


def test_samples_have_the_models_moments():
    pair = state_space()
    x = pair.sample(pair.examples(20000))[:, :3].flatten(1)
    expected = dense_marginal(pair, 3)
    error = (expected.covariance_matrix.diagonal() / len(x)).sqrt()
    assert ((x.mean(0) - expected.mean).abs() < 4.5 * error).all()
    whitened = torch.linalg.solve(expected.scale_tril, (x - expected.mean).T)
    squares = whitened @ whitened.T / len(x) - torch.eye(9)
    assert squares.abs().max() < 4.5 * (2 / len(x)) ** 0.5


def test_training_by_the_exact_guide_climbs_the_likelihood():
    """Where the guide is exact, the ELBO's gradient is that of log p(x)."""
    pair, x = state_space("exact").requires_grad_(True), sequences()
    expected = torch.autograd.grad(pair.log_prob(x).sum(), list(pair.parameters()))
    found = torch.autograd.grad(pair.log_weights(x, 1).log_w.sum(), list(pair.parameters()))
    torch.testing.assert_close(found, expected)


def test_another_guide_is_refused():
    with pytest.raises(ValueError, match="guide: found 'combiner', expected 'mean_field' or 'exact'"):
        LinearGaussianStateSpace(3, 2, guide="combiner")
