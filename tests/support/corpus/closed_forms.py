"""Numbers that need no draws: integrals on a grid, and the densities and bounds of linear Gaussian models."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) over the last dimension."""
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def grid(low: float, high: float, num: int, dims: int = 1) -> tuple[Tensor, float]:
    """The midpoints of `num` cells along each of `dims` dimensions, `[points, dims]`, and the log size of a cell."""
    step = (high - low) / num
    axis = low + step * (torch.arange(num) + 0.5)
    points = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    return points, dims * math.log(step)


def log_integral(log_density: Callable[[Tensor], Tensor], low: float, high: float, num: int, dims: int = 1) -> Tensor:
    """`log int exp(log_density(z)) dz`, where `log_density` takes points `[points, dims]` to `[points, N]`."""
    points, log_cell = grid(low, high, num, dims)
    return log_density(points).logsumexp(0) + log_cell


def latent_normal(decode: Callable[[Tensor], torch.distributions.Distribution], dims: int) -> Callable:
    """Data -> log p(x) of a model with z ~ N(0, I) of one or two dimensions, and x of the distribution `decode(z)`.

    `decode` takes points `[points, dims]`; the dimensions of its distribution's events are summed here.
    """

    def log_evidence(x: Tensor) -> Tensor:
        def log_joint(z: Tensor) -> Tensor:
            terms = [decode(z).log_prob(row).reshape(len(z), -1).sum(-1) for row in x]
            return standard_normal(z)[:, None] + torch.stack(terms, -1)

        with torch.no_grad():
            return log_integral(log_joint, -6.0, 6.0, 400 if dims == 1 else 100, dims)

    return log_evidence


def linear_log_evidence(x: Tensor, weight: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log p(x) for z ~ N(0, I) and x ~ N(weight z + loc, scale^2 I); `weight` is `[features, latents]`."""
    covariance = weight @ weight.T + scale**2 * torch.eye(len(weight))
    return MultivariateNormal(torch.zeros(len(weight)), covariance).log_prob(x - loc)


def linear_elbo(x: Tensor, weight: Tensor, loc: Tensor | float, scale: Tensor | float, q: MultivariateNormal) -> Tensor:
    """The bound of the same model for a Gaussian guide, one for each row."""
    expected_log_x = Normal(q.mean @ weight.T + loc, scale).log_prob(x).sum(-1)
    lost = torch.einsum("fi,nij,fj->n", weight, q.covariance_matrix, weight) / (2 * scale**2)
    prior = MultivariateNormal(torch.zeros(weight.shape[1]), torch.eye(weight.shape[1]))
    return expected_log_x - lost - torch.distributions.kl_divergence(q, prior)


def linear_posterior(x: Tensor, weight: Tensor, loc: Tensor | float, scale: Tensor | float) -> MultivariateNormal:
    """p(z | x) of the same model."""
    precision = weight.T @ weight / scale**2 + torch.eye(weight.shape[1])
    return MultivariateNormal((x - loc) @ weight @ precision.inverse() / scale**2, precision_matrix=precision)
