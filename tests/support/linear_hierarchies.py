"""The linear-Gaussian chain as a MarkovHVAE, with guides whose best parameters are known."""

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import LowerCholeskyAffine
from torch import nn

from ppvae.models import (
    BottomUpPosterior,
    ConditionallyIndependent,
    IAFPosterior,
    LadderPosterior,
    LinearGaussianChain,
    MarkovHVAE,
    ResidualPosterior,
    StandardNormal,
)


class LinearGaussian(nn.Module):
    """N(A h + b, sigma^2), entry by entry; sigma a number, or one for each."""

    def __init__(self, matrix, sigma, bias=0.0):
        super().__init__()
        self.matrix = nn.Parameter(matrix.detach().clone())
        self.sigma, self.bias = (torch.as_tensor(t).detach().clone() for t in (sigma, bias))

    def forward(self, h):
        return dist.Normal(h @ self.matrix.T + self.bias, self.sigma).to_event(1)


def chain(sizes, num_features=4):
    """Of unequal noises and a mean."""
    pair = LinearGaussianChain(num_features, sizes)
    with torch.no_grad():
        pair.log_sigmas.copy_(torch.tensor([0.7, 0.6, 0.8, 1.1])[: len(sizes)].log())
        pair.mean.copy_(torch.arange(float(num_features)))
    return pair.fit_guide()


def as_hierarchy(pair, posterior):
    """The same model as a MarkovHVAE."""
    sigmas = pair.log_sigmas.exp()
    transitions = [LinearGaussian(W, sigma) for W, sigma in zip(pair.weights[1:], sigmas[1:], strict=True)]
    likelihood = LinearGaussian(pair.weights[0], sigmas[0], pair.mean)
    return MarkovHVAE(StandardNormal(pair.sizes[-1]), transitions, likelihood, posterior)


def best_independent(pair):
    """The chain's own guide."""
    _, precision = pair._smoother()
    weights, biases, scales = (
        t.split(pair.sizes[1:]) for t in (pair.encoder.weight, pair.encoder.bias, precision.diagonal().rsqrt())
    )
    return ConditionallyIndependent([LinearGaussian(*each) for each in zip(weights, scales, biases, strict=True)])


def exact_bottom_up(pair):
    """Of a chain of scalars: `p(z_1 | x) p(z_2 | z_1) ...`."""
    (gain, scale), *others = pair.upwards()
    first = LinearGaussian(gain, scale[0, 0], -gain @ pair.mean)
    return BottomUpPosterior([first] + [LinearGaussian(gain, scale[0, 0]) for gain, scale in others])


def exact_top_down(pair, kind):
    """Of a chain of scalars: `p(z_L | x) p(z_{L-1} | z_L, x) ...`, by messages from below.

    `p(x | z_l)` is proportional to `N(z_l; d_l, v_l)`, with
    `d_1 = W_0'(x - mean) / W_0'W_0`, `v_1 = s_0^2 / W_0'W_0`; `d_{l+1} = d_l / W_l`, `v_{l+1} = (v_l + s_l^2) / W_l^2`.
    """
    variances, square = (2 * pair.log_sigmas).exp(), pair.weights[0].square().sum()
    features = [linear(pair.weights[0].T / square, -pair.weights[0].T @ pair.mean / square)]
    v, heads = variances[0] / square, []
    for W, variance in zip(pair.weights[1:], variances[1:], strict=True):
        one, share = torch.ones(1, 1), variance / (variance + v)  # what of z_l's posterior the message has
        if kind is LadderPosterior:
            heads.append(LinearGaussian(one, v.sqrt()))
        else:
            heads.append(LinearGaussian(share * torch.cat([one, -one, 0 * one], 1), (1 - share).sqrt()))
        features.append(linear(1 / W, torch.zeros(1)))
        v = (v + variance) / W.square().squeeze()
    heads.append(LinearGaussian(1 / (1 + v) * torch.ones(1, 1), (v / (1 + v)).sqrt()))
    return kind(features, heads)


class FromPrior(nn.Module):
    """Given (d, mu, log s), the map that takes `N(mu, s^2 I)` to `N(P^-1 (d + mu / s^2), P^-1)`."""

    def __init__(self, s, P):
        super().__init__()
        self.s, self.covariance = s, torch.linalg.inv(P)

    def condition(self, context):
        d, mu, _ = context.chunk(3, -1)
        scale_tril = torch.linalg.cholesky(self.covariance) / self.s
        mean = (d + mu / self.s**2) @ self.covariance
        return LowerCholeskyAffine(mean - mu @ scale_tril.T, scale_tril)


@torch.no_grad()
def exact_flow(pair):
    """Of a chain of vectors: Gaussians whose correlations the maps make, by messages from below.

    `p(x | z_l)` is proportional to `exp(d_l'z_l - z_l'J_l z_l / 2)`, with `d_1 = W_0'(x - mean) / s_0^2`,
    `J_1 = W_0'W_0 / s_0^2`; with `P_l = J_l + I / s_l^2`, `d_{l+1} = W_l'P_l^-1 d_l / s_l^2` and
    `J_{l+1} = W_l'P_l^-1 J_l W_l / s_l^2`. The posterior of z_l given z_{l+1} has the precision P_l.
    """
    s, W = pair.log_sigmas.exp(), pair.weights
    features = [linear(W[0].T / s[0] ** 2, -W[0].T @ pair.mean / s[0] ** 2)]
    J, maps = W[0].T @ W[0] / s[0] ** 2, []
    for W_l, s_l in zip(W[1:], s[1:], strict=True):
        P = J + torch.eye(len(J)) / s_l**2
        back = W_l.T @ torch.linalg.inv(P) / s_l**2
        maps.append(FromPrior(s_l, P))
        features.append(linear(back, torch.zeros(len(back))))
        J = back @ J @ W_l
    maps.append(FromPrior(1.0, J + torch.eye(len(J))))
    *lower, top = pair.sizes[1:]
    heads = [LinearGaussian(torch.zeros(n, 3 * n), 1.0) for n in lower] + [LinearGaussian(torch.zeros(top, top), 1.0)]
    return IAFPosterior(features, heads, maps)


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


EXACT = {
    "bottom_up": exact_bottom_up,
    "ladder": lambda pair: exact_top_down(pair, LadderPosterior),
    "residual": lambda pair: exact_top_down(pair, ResidualPosterior),
}
