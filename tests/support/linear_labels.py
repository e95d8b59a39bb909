"""M1, M2, M1+M2 and a conditional VAE with linear parts, where log p is known; weights are those of seed 0."""

import torch
from support.zoo_pairs import gaussian
from torch import nn

from ppvae.models import (
    M1,
    M1M2,
    M2,
    VAE,
    Classifier,
    ConditionalVAE,
    FullNormal,
    Gaussian,
    LabelPrior,
    StandardNormal,
)
from ppvae.networks import inverse_softplus

F, D, C, SIGMA = 3, 2, 3, 0.7
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def batch(num=6):
    """Data, labels, and which of them are known: every second one."""
    x = torch.randn(num, F, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(num) % C, torch.arange(num) % 2 == 0


def exact_posterior(likelihood: Gaussian, num_latents: int) -> FullNormal:
    """q(z | x, c) of `x = W z + V c + b + sigma e` with standard normal z, given x and c side by side."""
    W, V = likelihood.network.weight.split([num_latents, likelihood.network.in_features - num_latents], 1)
    precision = W.T @ W / SIGMA**2 + torch.eye(num_latents)
    covariance = torch.linalg.inv(precision)
    to_loc = covariance @ W.T / SIGMA**2
    scale_tril = torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(num_latents, num_latents)
    on_diagonal = rows == columns
    entries = scale_tril[rows, columns]
    entries[on_diagonal] = inverse_softplus(entries[on_diagonal])
    network = nn.Linear(len(W) + V.shape[1], FullNormal.num_outputs(num_latents))
    with torch.no_grad():
        network.weight.zero_()
        network.weight[:num_latents] = torch.cat([to_loc, -to_loc @ V], 1)
        network.bias.copy_(torch.cat([-to_loc @ likelihood.network.bias, entries]))
    return FullNormal(network, num_latents)


@torch.no_grad()
def conditional(num_covariates: int = C) -> ConditionalVAE:
    torch.manual_seed(0)
    likelihood = Gaussian(nn.Linear(D + num_covariates, F), sigma=SIGMA)
    posterior = exact_posterior(likelihood, D)
    return ConditionalVAE(StandardNormal(D), likelihood, posterior, num_covariates)


def given_covariates(likelihood: Gaussian, num_latents: int, c: torch.Tensor) -> torch.distributions.Distribution:
    """The marginal p(x | c)."""
    W, V = likelihood.network.weight.split([num_latents, likelihood.network.in_features - num_latents], 1)
    covariance = W @ W.T + SIGMA**2 * torch.eye(len(W))
    return gaussian(c @ V.T + likelihood.network.bias, covariance)


@torch.no_grad()
def partly_labeled_mixture() -> M2:
    """M2 that is a Gaussian mixture with one covariance for all, and its exact guide."""
    torch.manual_seed(0)
    likelihood = Gaussian(nn.Linear(D + C, F), sigma=SIGMA)
    component = given_covariates(likelihood, D, torch.eye(C))
    classify = nn.Linear(F, C)
    precision = component.precision_matrix[0]
    classify.weight.copy_(component.loc @ precision)
    classify.bias.copy_(PRIOR.log() - (component.loc @ precision * component.loc).sum(-1) / 2)
    label_prior = LabelPrior(C)
    label_prior.logits.copy_(PRIOR.log())
    return M2(label_prior, StandardNormal(D), likelihood, Classifier(classify), exact_posterior(likelihood, D))


@torch.no_grad()
def stacked() -> M1M2:
    """M1+M2 whose evidence is a mixture's; its guide is that of z1 given x under another prior."""
    m2 = partly_labeled_mixture()
    vae = VAE(StandardNormal(F), Gaussian(nn.Linear(F, 4), sigma=SIGMA), nn.Identity())
    vae.posterior = exact_posterior(vae.likelihood, F)
    return M1M2(vae, m2)


@torch.no_grad()
def features_with_labels() -> M1:
    """M1 with one latent, and the VAE's exact guide."""
    torch.manual_seed(0)
    likelihood = Gaussian(nn.Linear(1, F), sigma=SIGMA)
    vae = VAE(StandardNormal(1), likelihood, exact_posterior(likelihood, 1))
    return M1(vae, Classifier(nn.Linear(1, C)))


def with_labels(log_joint: torch.Tensor, y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """log p(x, y) where y is known, log p(x) elsewhere, from all of a row's log p(x, y), `[B, C]`."""
    return torch.where(known, log_joint.gather(1, y[:, None])[:, 0], log_joint.logsumexp(1))
