"""The Frechet distance between two samples, its bias, and its limit for infinitely many points."""

import torch
from torch import Tensor

SHUFFLES = 4
"""Random ways to halve the samples for the bias."""


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Between two Gaussians, squared: `|m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2)`.

    Source: Dowson & Landau 1982; Heusel et al. 2017 (arXiv:1706.08500) for features of images.

    Args:
        mean, other_mean: `[D]`.
        covariance, other_covariance: `[D, D]`, symmetric and not negative.

    Example:
        >>> one = torch.eye(2)
        >>> frechet_distance(torch.zeros(2), one, torch.tensor([3.0, 0.0]), 4 * one)
        11.0
    """
    root = _root(covariance)
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    trace = covariance.trace() + other_covariance.trace() - 2 * cross
    return ((mean - other_mean).square().sum() + trace).item()


def frechet(real: Tensor, drawn: Tensor) -> float:
    """The Frechet distance between Gaussians with the moments of two samples, `[N, D]` and `[M, D]`."""
    return frechet_distance(*_moments(real), *_moments(drawn))


def frechet_halved(real: Tensor, drawn: Tensor, generator: torch.Generator) -> float:
    """The mean Frechet distance between halves of two samples: its excess over the whole's is the bias, halved."""
    found = []
    for _ in range(SHUFFLES):
        x, y = (t[torch.randperm(len(t), generator=generator)].tensor_split(2) for t in (real, drawn))
        found += [frechet(*halves) for halves in zip(x, y, strict=True)]
    return sum(found) / len(found)


def frechet_limit(at_size: float, at_half: float) -> float:
    """The distance for infinitely many points: `2 F(n) - F(n / 2)`, as `F(n) = F + c / n` but for terms of `1 / n^2`.

    Source: Chong & Forsyth 2020 (arXiv:1911.07023), who fit the line through more sizes.

    Example:
        >>> frechet_limit(at_size=1.5, at_half=2.0)
        1.0
    """
    return 2 * at_size - at_half


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov().reshape(x.shape[1], x.shape[1])


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
