"""The arithmetic of EM for Gaussians: densities of blocks of data, and moments under given responsibilities.

C components, D features, n data points of a block. All of it is computed in float64, whatever the parameters'
dtype: squared distances in units of a small standard deviation cancel badly in float32. Blocks have the data points
last, so that operations per data point run along contiguous memory.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_TINY = torch.finfo(torch.float64).tiny
_FARTHEST = 5e3
"""How many standard deviations of its own a component may be from the others for its squares to be summed by products,
which are off by about the square of that in units of rounding."""
_BLOCK_FLOATS = defaultdict(lambda: 2**25, cpu=2**18)  # on a CPU, a block and its intermediates stay in the cache


@dataclass(frozen=True)
class ComponentMoments:
    """What EM needs to know about data: for each component its share of them, their mean and their covariance.

    Means and covariances, unlike sums of x and x x', lose no digits when data sets are pooled.

    Attributes:
        weight: `[C]`, sums to 1.
        mean: `[C, D]`.
        covariance: about `mean`; `[C, D, D]`, or its diagonal `[C, D]`.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor

    def pool(self, other: "ComponentMoments", share: float) -> "ComponentMoments":
        """The moments of pooled data: `share` of them the other's, `1 - share` these."""
        weights = torch.stack([(1 - share) * self.weight, share * other.weight])
        weight = weights.sum(0)
        parts = (weights / weight.clamp_min(_TINY))[..., None]
        means = torch.stack([self.mean, other.mean])
        mean = (parts * means).sum(0)
        covariances = torch.stack([self.covariance, other.covariance]) + square(means - mean, like=self.covariance)
        parts = parts.reshape(2, -1, *(1,) * (self.covariance.dim() - 1))
        return ComponentMoments(weight, mean, (parts * covariances).sum(0))

    def total_covariance(self) -> Tensor:
        """The covariance of all the data, `[D, D]` or `[D]`."""
        mean = self.weight @ self.mean
        within_and_between = self.covariance + square(self.mean - mean, like=self.covariance)
        return torch.tensordot(self.weight, within_and_between, dims=1)

    def reseed(self, components: Tensor, points: Tensor) -> "ComponentMoments":
        """These, with `components` `[M]` moved to `points` `[M, D]`, each with share 1/C and all data's covariance."""
        weight, mean, covariance = self.weight.clone(), self.mean.clone(), self.covariance.clone()
        weight[components] = 1 / len(weight)
        mean[components] = points.to(mean)
        covariance[components] = self.total_covariance()
        return ComponentMoments(weight / weight.sum(), mean, covariance)


@dataclass(frozen=True)
class EStep:
    """One pass over data.

    Attributes:
        log_likelihood: per data point, `[N]`, in nats: log p(x), or the best component's log p(x, c) in hard EM.
        moments: of the data under the responsibilities.
    """

    log_likelihood: Tensor
    moments: ComponentMoments


def square(x: Tensor, like: Tensor) -> Tensor:
    """`x x'` for vectors x `[*, C, D]` where `like` holds matrices `[C, D, D]`, else its diagonal `x^2`."""
    return x[..., :, None] * x[..., None, :] if like.dim() == 3 else x.square()


class Gaussians(Protocol):
    """C Gaussians: a block of data gives features, and these give log densities and moments."""

    origin: Tensor
    floats_per_row: int

    def features(self, x: Tensor) -> Tensor:
        """What densities and moments of x `[n, D]` are computed from."""

    def log_density(self, features: Tensor) -> Tensor:
        """`log N(x; mean_c, covariance_c)`, `[C, n]`, in nats."""

    def sums(self, features: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities `[C, n]` added up over a block, and the first and second moments under them."""

    def moments(self, count: Tensor, first: Tensor, second: Tensor) -> ComponentMoments:
        """Moments of the data from the sums over all blocks."""

    def precision_trace(self) -> Tensor:
        """`tr(covariance_c^-1)`, `[C]`, or `[1]` where it is the same for all."""


def log_joint(gaussians: Gaussians, log_weights: Tensor, x: Tensor) -> Tensor:
    """`log weight_c + log N(x; mean_c, covariance_c)` of x `[N, D]`, with gradients: `[N, C]`, in nats."""
    features = map(gaussians.features, _blocks(gaussians, x))
    return torch.cat([log_weights[:, None] + gaussians.log_density(f) for f in features], dim=1).T


@torch.no_grad()
def e_step(
    gaussians: Gaussians, log_weights: Tensor, x: Tensor, hard: bool, data_weights: Tensor | None = None
) -> EStep:
    """Log likelihood and moments in one pass over x `[N, D]`: each block is weighted and summed while in cache.

    Memory does not grow with `N C D`. In the moments, data points count by `data_weights`, `[N]`, if they have any.
    """
    blocks = _blocks(gaussians, x)
    parts = [None] * len(blocks) if data_weights is None else data_weights.split([len(rows) for rows in blocks])
    log_likelihoods: list[Tensor] = []
    sums: list[Tensor] = []
    for rows, own_weights in zip(blocks, parts, strict=True):
        features = gaussians.features(rows)
        joint = log_weights[:, None] + gaussians.log_density(features)
        if hard:
            log_likelihood, best = joint.max(0)
            responsibilities = one_hot(best, len(log_weights)).T.to(joint)
        else:
            log_likelihood = joint.logsumexp(0)
            responsibilities = (joint - log_likelihood).exp()
        log_likelihoods.append(log_likelihood)
        if own_weights is not None:
            responsibilities = own_weights.to(responsibilities) * responsibilities
        block = gaussians.sums(features, responsibilities)
        sums = [total + new for total, new in zip(sums, block, strict=True)] if sums else list(block)
    return EStep(torch.cat(log_likelihoods), gaussians.moments(*sums))


def _blocks(gaussians: Gaussians, x: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, _BLOCK_FLOATS[gaussians.origin.device.type] // gaussians.floats_per_row))


class DenseGaussians:
    """Full covariances through their Cholesky factors L: features are the residuals `y = L^-1 (x - mean)`, `[C, D, n]`.

    Means and covariances are computed from the moments of y, and so are precise however narrow a component is.

    Args:
        means: `[C, D]`.
        scale_tril: L, `[C, D, D]`, or `[D, D]` for all.
    """

    def __init__(self, means: Tensor, scale_tril: Tensor):
        num_components, num_features = means.shape
        self.means, self.scale_tril = means.double(), scale_tril.double()
        self.origin = self.means.detach().mean(0)
        identity = torch.eye(num_features, dtype=torch.float64, device=means.device)
        self.whiten = torch.linalg.solve_triangular(self.scale_tril, identity, upper=False)
        offset = self.whiten @ (self.means - self.origin)[..., None]
        self.affine = torch.cat([self.whiten.expand(num_components, -1, -1), -offset], dim=2)
        log_det = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        self.log_norm = log_det - num_features / 2 * math.log(2 * math.pi)
        self.floats_per_row = num_components * num_features

    def features(self, x: Tensor) -> Tensor:
        x = (x.to(self.origin) - self.origin).T
        return self.affine @ torch.cat([x, torch.ones_like(x[:1])])

    def log_density(self, features: Tensor) -> Tensor:
        return self.log_norm - features.square().sum(1) / 2

    def sums(self, features: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weighted = features * responsibilities[:, None]
        return responsibilities.sum(1), weighted.sum(2), weighted @ features.mT

    def moments(self, count: Tensor, first: Tensor, second: Tensor) -> ComponentMoments:
        divisor = count.clamp_min(_TINY)[:, None]
        shift = first / divisor
        covariance = second / divisor[..., None] - square(shift, like=second)
        mean = self.means + (self.scale_tril @ shift[..., None])[..., 0]
        return ComponentMoments(count / count.sum(), mean, self.scale_tril @ covariance @ self.scale_tril.mT)

    def precision_trace(self) -> Tensor:
        return self.whiten.square().sum((-2, -1)).reshape(-1)


class NarrowGaussians:
    """Diagonal covariances: features are what data are off each component's mean, `[C, D, n]`.

    Like those of `DenseGaussians` they are precise however narrow a component is.

    Args:
        means: `[C, D]`.
        scales: standard deviations, `[C, D]` or `[C, 1]`.
    """

    def __init__(self, means: Tensor, scales: Tensor):
        self.means, scales = means.double(), scales.double().expand(means.shape)
        self.origin = self.means.detach().mean(0)
        self.floats_per_row = means.numel()
        self.precision = scales**-2
        self.log_norm = -(scales.log() + math.log(2 * math.pi) / 2).sum(1, keepdim=True)

    def features(self, x: Tensor) -> Tensor:
        return x.to(self.origin).T - self.means[..., None]

    def log_density(self, features: Tensor) -> Tensor:
        return self.log_norm - (self.precision[:, None] @ features.square())[:, 0] / 2

    def sums(self, features: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weighted = features * responsibilities[:, None]
        return responsibilities.sum(1), weighted.sum(2), (weighted * features).sum(2)

    def moments(self, count: Tensor, first: Tensor, second: Tensor) -> ComponentMoments:
        return _diagonal_moments(self.means, count, first, second)

    def precision_trace(self) -> Tensor:
        return self.precision.sum(1)


def quickest_diagonal(means: Tensor, scales: Tensor) -> Gaussians:
    """Diagonal covariances by products, or by residuals where some component is too narrow for that."""
    distance = ((means - means.mean(0)) / scales).abs().amax()
    return DiagonalGaussians(means, scales) if distance < _FARTHEST else NarrowGaussians(means, scales)


class DiagonalGaussians:
    """Diagonal covariances: a log density is one product with the features `(1, x, x^2)`, `[2 D + 1, n]`.

    Wrong where components are narrow and far from each other, as the squares cancel; see `NarrowGaussians`.

    Args:
        means: `[C, D]`.
        scales: standard deviations, `[C, D]` or `[C, 1]`.
    """

    def __init__(self, means: Tensor, scales: Tensor):
        means, scales = means.double(), scales.double().expand(means.shape)
        self.origin = means.detach().mean(0)
        self.floats_per_row = 2 * means.shape[1] + 1
        self.precision = scales**-2
        loc = means - self.origin
        constant = -(loc.square() * self.precision / 2 + scales.log() + math.log(2 * math.pi) / 2).sum(1, keepdim=True)
        self.natural = torch.cat([constant, loc * self.precision, -self.precision / 2], dim=1)

    def features(self, x: Tensor) -> Tensor:
        x = (x.to(self.origin) - self.origin).T
        return torch.cat([torch.ones_like(x[:1]), x, x.square()])

    def log_density(self, features: Tensor) -> Tensor:
        return self.natural @ features

    def sums(self, features: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, first, second = (responsibilities @ features.T).split([1, *2 * self.origin.shape], dim=1)
        return count[:, 0], first, second

    def moments(self, count: Tensor, first: Tensor, second: Tensor) -> ComponentMoments:
        return _diagonal_moments(self.origin, count, first, second)

    def precision_trace(self) -> Tensor:
        return self.precision.sum(1)


def _diagonal_moments(around: Tensor, count: Tensor, first: Tensor, second: Tensor) -> ComponentMoments:
    """Those of sums of what data are off a point, and of its squares."""
    divisor = count.clamp_min(_TINY)[:, None]
    shift = first / divisor
    covariance = (second / divisor - shift.square()).clamp_min(0)
    return ComponentMoments(count / count.sum(), around + shift, covariance)
