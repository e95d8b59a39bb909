"""Priors, against integrals over a grid and, under a linear decoder, against log p(x) in closed form."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import ppvae
from ppvae.models import (
    VAE,
    AR1Prior,
    AutoregressiveFlowPrior,
    Bernoulli,
    DiagonalNormal,
    FlowPrior,
    FullNormal,
    Gaussian,
    MarkovHVAE,
    MixturePrior,
    StandardNormal,
    VampPrior,
)

pytestmark = pytest.mark.usefixtures("float64")


def spread(prior, size=0.3):
    """A prior with parameters that are nothing special."""
    for p in prior.parameters():
        p.data += size * torch.randn_like(p)
    return prior


def vamp(family="diagonal", num_components=4):
    vae = VAE.mlp(5, 2, [6], "gaussian", family)
    return VampPrior(vae.posterior, (5,), num_components)


PRIORS = {
    "mixture": lambda: spread(MixturePrior(2, 3)),
    "vamp": vamp,
    "vamp of a flow": lambda: vamp("flow"),
    "flow": lambda: spread(FlowPrior(2), 0.05),
    "ar1": lambda: AR1Prior(2, 0.7),
    "autoregressive flow": lambda: spread(AutoregressiveFlowPrior(2, [6])),
}
AXIS = torch.linspace(-9, 9, 301, dtype=torch.float64)
GRID, CELL = torch.cartesian_prod(AXIS, AXIS), (AXIS[1] - AXIS[0]) ** 2


@pytest.mark.parametrize("name", PRIORS)
def test_a_density_integrates_to_one_and_is_that_of_the_draws(name, assert_mean):
    prior = PRIORS[name]()
    with torch.no_grad():
        density = prior().log_prob(GRID).exp() * CELL
        draws = prior().sample((20_000,))
    torch.testing.assert_close(density.sum(), torch.tensor(1.0), rtol=0, atol=1e-4)
    for statistic in (lambda z: z, torch.sin, lambda z: z.prod(-1, keepdim=True)):
        assert_mean(statistic(draws), density @ statistic(GRID), k=4.5)


def test_a_couplings_density_is_the_change_of_variables():
    """`log p(T(e)) = log N(e) - log |det dT/de|`, the determinant by differentiation."""
    prior = spread(FlowPrior(5))
    p = prior()

    def forward(e):
        for transform in p.transforms:
            e = transform(e)
        return e

    for e in torch.randn(4, 5):
        jacobian = torch.autograd.functional.jacobian(forward, e)
        log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum()
        expected = log_normal - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(p.log_prob(forward(e)), expected)


def test_a_flow_starts_as_the_standard_normal():
    z = torch.randn(6, 3)
    torch.testing.assert_close(FlowPrior(3)().log_prob(z), StandardNormal(3)().log_prob(z))


def linear(prior, posterior):
    return VAE(prior, Gaussian(nn.Linear(2, 5), sigma=0.7), posterior)


def wide():
    """A guide wider than any posterior here, so that no weight is large."""
    posterior = FullNormal(nn.Linear(5, 5), 2)
    posterior.network.bias.data[2:] = torch.tensor([1.8, 0.3, 1.8])
    posterior.network.weight.data *= torch.tensor([1.0, 1.0, 0.1, 0.1, 0.1]).unsqueeze(-1)
    return posterior


def evidence(pair, x, log_weights, means, covariances):
    """`log sum_m pi_m N(x; W mu_m + b, W S_m W' + sigma^2 I)`."""
    W, b = pair.likelihood.network.weight, pair.likelihood.network.bias
    noise = pair.likelihood.fixed_sigma**2 * torch.eye(5)
    marginals = MultivariateNormal(means @ W.T + b, W @ covariances @ W.T + noise)
    return (log_weights + marginals.log_prob(x.unsqueeze(1))).logsumexp(-1)


def linear_with_mixture():
    pair = linear(spread(MixturePrior(2, 3)), wide())
    prior = pair.prior
    scales = nn.functional.softplus(prior.unconstrained_scale)
    return pair, (prior.logits.log_softmax(0), prior.loc, scales.square().diag_embed())


def linear_with_vamp():
    posterior = wide()
    pair = linear(VampPrior(posterior, (5,), 4), posterior)
    q = posterior(pair.prior.pseudo_inputs)
    return pair, (torch.full((4,), -math.log(4)), q.loc, q.covariance_matrix)


def linear_with_ar1():
    return linear(AR1Prior(2, 0.7), wide()), (torch.zeros(1), torch.zeros(1, 2), torch.tensor([[[1, 0.7], [0.7, 1]]]))


@pytest.mark.parametrize("make", [linear_with_mixture, linear_with_vamp, linear_with_ar1])
def test_with_a_linear_decoder_p_of_x_is_a_mixture_of_gaussians(make):
    """Oracle 6: by importance weights, and by `log_evidence`."""
    pair, mixture = make()
    x = pair.sample(6)
    exact = evidence(pair, x, *mixture).detach()
    with torch.no_grad():
        w = (pair.log_weights(x, num_particles=50_000).log_w - exact).exp()
    assert ((w.mean(0) - 1).abs() < 4.5 * w.std(0) / 50_000**0.5).all()
    found = ppvae.log_evidence(pair, x, "iwae", num_particles=20_000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 4.5 * found.std_error).all()


def test_a_vamp_prior_of_the_data_is_the_average_of_their_posteriors():
    vae, x = VAE.mlp(5, 2, [6], "gaussian"), torch.randn(20, 5)
    prior = VampPrior(vae.posterior, (5,), num_components=20)
    prior.init_from(x)
    z = torch.randn(7, 2)
    expected = vae.posterior(x).log_prob(z.unsqueeze(1)).logsumexp(-1) - math.log(20)
    torch.testing.assert_close(prior().log_prob(z), expected)
    few = VampPrior(vae.posterior, (5,), num_components=30)
    few.init_from(x[:4])
    assert (few.pseudo_inputs.unsqueeze(1) == x[:4]).all(-1).any(-1).all()


def test_a_vamp_prior_shares_the_guides_network_and_does_not_hold_it(tmp_path):
    vae, x = VAE.mlp(5, 2, [6], "gaussian", prior="vamp").init_from(torch.randn(60, 5)), torch.randn(3, 5)
    assert [name for name, _ in vae.prior.named_parameters()] == ["pseudo_inputs"]
    assert {name.partition(".")[0] for name in vae.state_dict()} == {"prior", "likelihood", "posterior"}
    z = torch.randn(2)
    of_encoder = torch.autograd.grad(vae.prior().log_prob(z), list(vae.posterior.parameters()))
    assert all((g != 0).any() for g in of_encoder)

    other = VAE.mlp(5, 2, [6], "gaussian", prior="vamp")
    ppvae.save(vae, tmp_path / "vae.safetensors")
    ppvae.load(other, tmp_path / "vae.safetensors")
    twin = copy.deepcopy(vae)
    for each in (other, twin):
        torch.testing.assert_close(each.prior().log_prob(z), vae.prior().log_prob(z))
    for p in twin.posterior.parameters():
        p.data += 1.0
    assert twin.prior().log_prob(z) != vae.prior().log_prob(z)
    torch.manual_seed(0)
    before = vae.log_weights(x, 3).log_w
    torch.manual_seed(0)
    torch.testing.assert_close(other.log_weights(x, 3).log_w, before)


@pytest.mark.slow(7)
@pytest.mark.parametrize("make", [MixturePrior, FlowPrior])
def test_a_learned_prior_comes_close_to_clusters(make):
    """Data that are the latents and little noise: the best ELBO is the log density of their two clusters.

    Measured were 0.08 to 0.19 nats below it, of 16 seeds each (with a learning rate that does not fall the flow's last
    step may be a bad one: 0.1 to 0.3, once 6); log p(x) under a standard normal prior is 3 nats below.
    """
    truth = torch.distributions.Normal(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.3)
    x = truth.sample((200,)).flatten(end_dim=1)
    best = truth.log_prob(x.unsqueeze(1)).sum(-1).logsumexp(-1).mean() - math.log(2)
    normal = torch.distributions.Normal(0.0, 1.01**0.5).log_prob(x).sum(-1).mean()
    vae = VAE(make(2), Gaussian(nn.Identity(), sigma=0.1), DiagonalNormal(nn.Linear(2, 4)))
    vae.posterior.network.weight.data[:2] = torch.eye(2)
    vae.posterior.network.bias.data = torch.tensor([0.0, 0.0, -2.2, -2.2])
    ppvae.fit(vae, x, steps=400, lr=0.01, schedule=lambda done: 1 - done, batch_size=200, progress=False)
    assert normal < best - 2.5
    assert ppvae.elbo(vae, x, seed=0, progress=False).mean().estimate > best - 0.3


@pytest.mark.parametrize("alpha", [0.3, 0.9])
@pytest.mark.parametrize("num", [1, 2, 6])
def test_the_chains_density_is_that_of_its_steps(alpha, num):
    z, normal = torch.randn(7, num), torch.distributions.Normal
    steps = normal(0.0, 1.0).log_prob(z[:, 0])
    for t in range(1, num):
        steps += normal(alpha * z[:, t - 1], (1 - alpha**2) ** 0.5).log_prob(z[:, t])
    torch.testing.assert_close(AR1Prior(num, alpha)().log_prob(z), steps)


@pytest.mark.parametrize("alpha", [0.3, 0.9])
@pytest.mark.parametrize("num", [1, 2, 6])
def test_a_factorized_guide_pays_at_least_what_is_said(alpha, num):
    """Reached at the variances that are said, and mean 0. Oracle 1: `sum log M_jj - log det M`, halved."""
    prior = AR1Prior(num, alpha)
    precision = prior().precision_matrix
    least = (precision.diagonal().log().sum() - precision.logdet()) / 2
    assert prior.least_rate == pytest.approx(least.item(), abs=1e-12)
    assert prior.least_rate >= (num - 1) * math.log1p(alpha**2) / 2
    variance = torch.full((num,), (1 - alpha**2) / (1 + alpha**2))
    variance[[0, -1]] = 1 - alpha**2 if num > 1 else 1.0

    def rate(loc, scale):
        q = torch.distributions.Normal(loc, scale)
        return ppvae.inference.kl_divergence(torch.distributions.Independent(q, 1), prior())

    torch.testing.assert_close(rate(torch.zeros(num), variance.sqrt()), least)
    others = rate(0.3 * torch.randn(500, num), variance.sqrt() * (0.3 * torch.randn(500, num)).exp())
    assert (others > least).all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.78, 0.79, 0.95])
def test_the_least_rate_is_half_a_log_for_each_step(alpha):
    """For every step, the first too, where alpha^2 is at least the golden section's 0.618; else for each but one."""
    step = math.log1p(alpha**2) / 2
    for num in (2, 3, 50):
        rate = AR1Prior(num, alpha).least_rate
        assert (rate >= num * step) == (alpha**2 >= (5**0.5 - 1) / 2)
        assert rate > (num - 1) * step
        assert AR1Prior(num + 1, alpha).least_rate - rate == pytest.approx(step)


@pytest.mark.slow(15)
def test_latents_that_have_nothing_to_say_pay_the_least_rate_and_no_more():
    """In a VAE, and at the top of a hierarchy, with decoders that are deaf: what is paid is for the prior's sake."""
    x = torch.rand(200, 6).round()
    chain = VAE(AR1Prior(4, 0.8), Bernoulli(nn.Linear(4, 6)), DiagonalNormal(nn.Linear(6, 8)))
    hierarchy = MarkovHVAE.mlp(6, [2, 4], [8])
    hierarchy.prior = AR1Prior(4, 0.8)
    for pair, lowest in ((chain, chain.likelihood), (hierarchy, hierarchy.transitions)):
        for p in lowest.requires_grad_(False).parameters():
            p.zero_()
        top = pair.posterior if pair is chain else pair.posterior.encoders[1]
        ppvae.fit(pair, x, steps=300, lr=0.05, schedule=lambda done: 1 - done, batch_size=200, progress=False)
        rate = ppvae.inference.kl_divergence(top(x), pair.prior())
        assert (rate >= pair.prior.least_rate - 1e-12).all()
        assert rate.mean() < pair.prior.least_rate + 0.05
    assert chain.prior.least_rate > 1


def test_bad_priors_are_refused():
    with pytest.raises(ValueError, match="found 'student', expected one of 'normal', 'mixture', 'vamp', 'flow', 'ar1'"):
        VAE.mlp(5, 2, prior="student")
    with pytest.raises(ValueError, match="num_latents: found 1, expected at least 2, for one part"):
        FlowPrior(1)
