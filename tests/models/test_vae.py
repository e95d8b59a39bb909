"""The VAE and its parts, against distributions written out by hand and a grid."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.inference import ELBO, kl_divergence
from ppvae.models import VAE, Autoencoder, Bernoulli, DiagonalNormal, FullNormal, Gaussian, StandardNormal
from ppvae.networks import mlp

pytestmark = pytest.mark.usefixtures("float64")


def test_full_covariance_kl_is_the_lectures_formula():
    scale_tril = torch.randn(5, 3, 3).tril()
    scale_tril.diagonal(dim1=-2, dim2=-1).exp_()
    m = torch.randn(5, 3)
    S = scale_tril @ scale_tril.mT
    q = dist.MultivariateNormal(m, scale_tril=scale_tril)
    written_out = (S.diagonal(dim1=-2, dim2=-1).sum(-1) + m.square().sum(-1) - 3 - torch.logdet(S)) / 2
    standard = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    torch.testing.assert_close(kl_divergence(q, standard), written_out)
    loc, scale = torch.randn(3), torch.rand(3) + 0.5
    general = torch.distributions.kl_divergence(q, dist.MultivariateNormal(loc, scale.square().diag()))
    torch.testing.assert_close(kl_divergence(q, dist.Normal(loc, scale).to_event(1)), general)


@pytest.mark.parametrize(
    ("likelihood", "posterior"),
    [
        *itertools.product(["bernoulli", "gaussian", "heteroscedastic"], ["diagonal", "full"]),
        *itertools.product(["gaussian"], ["low-rank", "mixture", "flow", "iaf"]),
    ],
)
def test_importance_weights_average_to_the_grid_integral(likelihood, posterior):
    """Oracle 7: with two latents log p(x) is an integral over a grid."""
    vae = VAE.mlp(5, 2, hidden=[8], likelihood=likelihood, posterior=posterior)
    vae.example = None
    x = torch.bernoulli(torch.full((3, 5), 0.5))
    axis = torch.linspace(-7, 7, 401)
    z = torch.cartesian_prod(axis, axis).unsqueeze(1)
    with torch.no_grad():
        log_joint = vae.likelihood(z).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        exact = log_joint.logsumexp(0) + 2 * math.log(axis[1] - axis[0])
        w = (vae.log_weights(x, num_particles=100_000).log_w - exact).exp()
    assert ((w.mean(0) - 1).abs() < 4 * w.std(0) / 100_000**0.5).all()


def test_reconstruction_is_the_likelihoods_mean():
    vae, x = VAE.mlp(5, 2, hidden=[8]), torch.ones(3, 5)
    torch.manual_seed(1)
    z = vae.latents(x, num_particles=4)["z"]
    torch.manual_seed(1)
    torch.testing.assert_close(vae.reconstruct(x, num_particles=4), vae.likelihood(z).mean.mean(0))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_convolutional_networks_take_particles(likelihood, posterior):
    vae = VAE.convolutional((2, 9, 7), num_latents=3, channels=[4, 6], likelihood=likelihood, posterior=posterior)
    x = torch.bernoulli(torch.full((4, 2, 9, 7), 0.5))
    vae.check(x)
    _, surrogate = ELBO(num_particles=3)(vae, x)
    surrogate.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    assert vae.sample(5).shape == (5, 2, 9, 7)


def test_full_posterior_covers_any_covariance():
    network = nn.Linear(1, FullNormal.num_outputs(3), bias=True)
    target = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.5]])
    entries = target + (target.diagonal().expm1().log() - target.diagonal()).diag()  # the softplus undone
    network.weight.data.zero_()
    network.bias.data = torch.cat([torch.zeros(3), entries[tuple(torch.tril_indices(3, 3))]])
    q = FullNormal(network, 3)(torch.zeros(2, 1))
    torch.testing.assert_close(q.covariance_matrix, (target @ target.T).expand(2, 3, 3))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_likelihood_starts_at_the_data(likelihood):
    x = torch.bernoulli(torch.tensor([0.2, 0.5, 0.8]).expand(1000, 3))
    vae = VAE.mlp(3, 2, likelihood=likelihood).init_from(x)
    vae.likelihood.network[-1].weight.data.zero_()
    torch.testing.assert_close(vae.likelihood(torch.randn(2)).mean, x.mean(0))
    images = x.reshape(1000, 3, 1, 1).expand(1000, 3, 4, 4)
    vae = VAE.convolutional((3, 4, 4), 2, likelihood=likelihood).init_from(images)
    vae.likelihood.network.network[-1].weight.data.zero_()
    torch.testing.assert_close(vae.likelihood(torch.randn(2)).mean.mean((1, 2)), x.mean(0))


def test_learned_sigma_starts_at_the_datas_spread():
    x = 0.3 * torch.randn(100_000, 3)
    for likelihood in ("gaussian", "heteroscedastic"):
        part = VAE.mlp(3, 2, likelihood=likelihood).init_from(x).likelihood
        if part.sigma_network is not None:
            part.sigma_network[-1].weight.data.zero_()
        torch.testing.assert_close(part.sigma(torch.randn(2)).mean(), torch.tensor(0.3), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("likelihood", ["gaussian", "heteroscedastic"])
@pytest.mark.parametrize("spread", [5.0, 300.0])
def test_learned_sigma_starts_at_any_spread_in_float32(likelihood, spread):
    """The exponential of the wider spread is not a number of that precision."""
    x = spread * torch.randn(100_000, 3)
    part = VAE.mlp(3, 2, likelihood=likelihood).float().init_from(x).likelihood
    if part.sigma_network is not None:
        part.sigma_network[-1].weight.data.zero_()
    torch.testing.assert_close(
        part.sigma(torch.randn(2).float()).mean(), torch.tensor(spread).float(), rtol=0.02, atol=0.0
    )


def test_sigma_is_what_was_asked():
    z = torch.randn(7, 2)
    assert Gaussian(nn.Linear(2, 3), sigma=0.3).sigma(z) == 0.3
    assert not list(p for n, p in Gaussian(nn.Linear(2, 3), sigma=0.3).named_parameters() if "sigma" in n)
    learned = Gaussian(nn.Linear(2, 3), sigma="learned", min_sigma=0.1)
    torch.testing.assert_close(learned.sigma(z), torch.tensor(1.0))
    learned.unconstrained_sigma.data.fill_(-50.0)
    torch.testing.assert_close(learned.sigma(z), torch.tensor(0.1))
    assert Gaussian(nn.Linear(2, 3), sigma=nn.Linear(2, 3)).sigma(z).shape == (7, 3)
    for bad in (0.0, -1.0, "free"):
        with pytest.raises(ValueError, match="sigma: found"):
            Gaussian(nn.Linear(2, 3), sigma=bad)


def test_batch_norms_of_a_decoder_learn_nothing_from_being_put_in_a_pair():
    decoder = mlp(2, [5], 4, batch_norm=True)
    before = {name: b.clone() for name, b in decoder.named_buffers()}
    pair = VAE(StandardNormal(2), Gaussian(decoder, sigma=1.0), DiagonalNormal(nn.Linear(4, 4)))
    assert pair.example.shape == (1, 4)
    assert all(module.training for module in pair.modules())
    torch.testing.assert_close(dict(decoder.named_buffers()), before)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="likelihood: found 'laplace', expected one of 'bernoulli'"):
        VAE.mlp(5, 2, likelihood="laplace")
    with pytest.raises(ValueError, match=r"posterior: found 'planar', expected one of .*'mixture'"):
        VAE.mlp(5, 2, posterior="planar")


def test_autoencoder_trains_on_reconstruction_and_has_no_density():
    pair = Autoencoder(nn.Linear(4, 2), Gaussian(nn.Linear(2, 4), sigma=1.0))
    x = torch.randn(6, 4)
    value, _ = ELBO()(pair, x)
    residual = (x - pair.reconstruct(x)).square().sum(-1)
    torch.testing.assert_close(value, -(residual + 4 * math.log(2 * math.pi)) / 2)
    for refused in (lambda: pair.log_prob(x), lambda: pair.sample(3)):
        with pytest.raises(NotImplementedError, match="deterministic function of x"):
            refused()


def test_gray_values_are_refused_for_bernoulli():
    vae = VAE(VAE.mlp(4, 2).prior, Bernoulli(nn.Linear(2, 4)), VAE.mlp(4, 2).posterior)
    with pytest.raises(ValueError, match="'x'"):
        vae.check(torch.rand(3, 4))
