"""A diffusion of Gaussian data, where all is linear algebra: the optimal denoiser, the bound, p(x), and samples."""

import math
from unittest import mock

import torch
from torch import nn

from ppvae.models import DiffusionVAE, Gaussian

VARIANCES = torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64)


def covariance():
    """Of three correlated numbers."""
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    return basis @ VARIANCES.diag() @ basis.T


class OptimalDenoiser(nn.Module):
    """`E[x | x_t] = gain G x_t`, `G = alpha S (alpha^2 S + sigma^2 I)^-1`, of data N(0, S); optimal with gain one."""

    def __init__(self, S, parameterization="x"):
        super().__init__()
        self.S, self.parameterization = S, parameterization
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def matrix(self, gamma):
        alpha, variance = (-gamma).sigmoid().sqrt()[..., None, None], gamma.sigmoid()[..., None, None]
        return self.gain * alpha * self.S @ torch.linalg.inv(alpha**2 * self.S + variance * torch.eye(len(self.S)))

    def forward(self, x, gamma):
        x_hat = (self.matrix(gamma) @ x.unsqueeze(-1)).squeeze(-1)
        alpha, sigma = (-gamma).sigmoid().sqrt()[..., None], gamma.sigmoid().sqrt()[..., None]
        eps_hat = (x - alpha * x_hat) / sigma
        return {"x": x_hat, "eps": eps_hat, "v": alpha * eps_hat - sigma * x_hat}[self.parameterization]


def optimal(num_steps, schedule="cosine", parameterization="x", variance="upper", sigma=None):
    """The pair whose denoiser is optimal for data N(0, S), decoding with sigma_1 unless another sigma is given."""
    pair = DiffusionVAE(
        OptimalDenoiser(covariance(), parameterization),
        [3],
        num_steps,
        schedule=schedule,
        parameterization=parameterization,
        variance=variance,
    )
    sigma = pair.levels()[0].sigmoid().sqrt().item() if sigma is None else sigma
    pair.likelihood = Gaussian(nn.Identity(), sigma=sigma)
    return pair


def coefficients(gamma_s, gamma_t):
    """alpha_s, alpha_t, sigma_s^2, sigma_t^2, and the variance that a step from s to t adds, of q(x_t | x_s)."""
    alpha_s, alpha_t, var_s, var_t = (
        (-gamma_s).sigmoid().sqrt(),
        (-gamma_t).sigmoid().sqrt(),
        gamma_s.sigmoid(),
        gamma_t.sigmoid(),
    )
    return alpha_s, alpha_t, var_s, var_t, var_t - (alpha_t / alpha_s) ** 2 * var_s


def variances(pair, gamma_s, gamma_t):
    """Of q(x_s | x_t, x), and of p(x_s | x_t); by Bayes' rule, as Ho et al. write them."""
    _, _, var_s, var_t, added = coefficients(gamma_s, gamma_t)
    posterior = added * var_s / var_t
    return posterior, posterior if pair.variance == "posterior" else added


def exact_terms(pair, x):
    """The terms of the ELBO in closed form, `[T, B]`, in the order of `elbo_term`, without that of xT, `[B]`."""
    gamma, D = pair.levels(), x.shape[1]

    def squared_error(t):  # E |x - x^(x_t)|^2
        alpha, variance, G = (-gamma[t]).sigmoid().sqrt(), gamma[t].sigmoid(), pair.denoiser.matrix(gamma[t])
        return (x @ (alpha * G - torch.eye(D)).T).square().sum(-1) + variance * G.square().sum()

    s2 = pair.likelihood.sigma(x) ** 2
    terms = [-D / 2 * (2 * math.pi * s2).log() - squared_error(0) / (2 * s2)]
    for t in range(1, pair.num_steps):
        alpha_s, _, _, var_t, added = coefficients(gamma[t - 1], gamma[t])
        of_q, of_p = variances(pair, gamma[t - 1], gamma[t])
        of_means = (alpha_s * added / var_t) ** 2 * squared_error(t) / of_p
        terms.append(-(D * (of_q / of_p - 1 - (of_q / of_p).log()) + of_means) / 2)
    signal, variance = (-gamma[-1]).sigmoid(), gamma[-1].sigmoid()
    top = -(signal * x.square().sum(-1) + D * (variance - 1 - variance.log())) / 2
    return torch.stack(terms), top


def exact_elbo(pair, x):
    terms, top = exact_terms(pair, x)
    return terms.sum(0) + top


def marginal(pair):
    """The pair's p(x), by passing the covariance down the chain."""
    gamma, identity = pair.levels(), torch.eye(3)
    C = identity
    for t in range(pair.num_steps - 1, 0, -1):
        alpha_s, alpha_t, var_s, var_t, added = coefficients(gamma[t - 1], gamma[t])
        step = alpha_t / alpha_s * var_s / var_t * identity + alpha_s * added / var_t * pair.denoiser.matrix(gamma[t])
        C = step @ C @ step.T + variances(pair, gamma[t - 1], gamma[t])[1] * identity
    G = pair.denoiser.matrix(gamma[0])
    C = G @ C @ G.T + pair.likelihood.sigma(identity) ** 2 * identity
    return torch.distributions.MultivariateNormal(torch.zeros(3), (C + C.T) / 2)


def integrated_terms(pair, x):
    """`E elbo_term`, `[T, B]`, exactly: as a quadratic function of the noise it has its mean at six nodes."""
    T, B = pair.num_steps, len(x)
    nodes = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)])
    noise, index = nodes.repeat_interleave(B, 0).repeat(T, 1), torch.arange(T).repeat_interleave(6 * B)
    with mock.patch("torch.distributions.normal._standard_normal", return_value=noise):
        return pair.elbo_term(x.repeat(6 * T, 1), index).reshape(T, 6, B).mean(1)
