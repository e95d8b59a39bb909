"""What nearest neighbors say about two samples: density and coverage, precision and recall, and memorization."""

import torch
from torch import Tensor

CHUNK = 1000
"""Rows whose distances to all others are held at once."""

PERMUTATIONS = 999
ROUNDING = 1e-6
"""Relative: what differs by no more is equal."""
LOST = 1e-12
"""What squared distances, summed by products, are off by, relative to the squares that they are made of."""


def density_and_coverage(real: Tensor, drawn: Tensor, nearest: int) -> dict[str, float]:
    """Density and coverage, precision and recall.

    The ball of a point reaches to its k-th nearest neighbor in its own set. *Density* is the mean number of real balls
    that a drawn point lies in, over k: 1 in expectation if both have one law, and above 1 where draws crowd where data
    do. *Coverage* is the share of real balls that hold a drawn point. *Precision* is the share of drawn points in any
    real ball, *recall* that of real points in any drawn ball.

    Source: Naeem et al. 2020 (arXiv:2002.09797); Kynkäänniemi et al. 2019 (arXiv:1904.06991).

    Args:
        real: `[N, D]`.
        drawn: `[M, D]`.
        nearest: k.

    Example:
        >>> x = torch.arange(10.0)[:, None]
        >>> density_and_coverage(x, x, nearest=1)
        {'density': 2.8, 'coverage': 1.0, 'precision': 1.0, 'recall': 1.0}
    """
    inside, hit = _balls(real, drawn, nearest)
    return {
        "density": inside.double().mean().item() * len(real) / (nearest * len(drawn)),
        "coverage": (inside > 0).double().mean().item(),
        "precision": hit.double().mean().item(),
        "recall": _balls(drawn, real, nearest)[1].double().mean().item(),
    }


def expected_coverage_of_equals(num_real: int, num_drawn: int, nearest: int) -> float:
    """Coverage in expectation if data and draws have one law: `1 - prod_{j=1..k} (N - j) / (N + M - j)`.

    A ball is empty if its point's k nearest neighbors, among all N - 1 + M others, are all real.

    Source: Naeem et al. 2020 (arXiv:2002.09797), section 3.

    Example:
        >>> expected_coverage_of_equals(num_real=2, num_drawn=1, nearest=1)
        0.5
    """
    empty = 1.0
    for j in range(1, nearest + 1):
        empty *= (num_real - j) / (num_real + num_drawn - j)
    return 1 - empty


def nearest_in_training(drawn: Tensor, train: Tensor, held_out: Tensor) -> Tensor:
    """How many drawn points have each of the N training and N held-out points as their nearest, `[2 N]`; points that
    are as near, as where values repeat, share the drawn one."""
    pooled = torch.cat([train, held_out])
    center, counts = pooled.mean(0), pooled.new_zeros(len(pooled))
    for few in drawn.split(CHUNK):
        distance = torch.cdist(few - center, pooled - center)
        as_near = distance <= distance.amin(1, True) + ROUNDING * distance.median(1, True).values
        counts += (as_near / as_near.sum(1, True)).sum(0)
    return counts


def memorization(counts: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """The share of draws nearest to a training point rather than a held-out one, and a p-value of its being above 1/2.

    Training and held-out points are draws of one law. A model that has learned that law and not its training points
    gives no sign of which is which: then the labels can be permuted, and the p-value is exact.

    Args:
        counts: as `nearest_in_training` counts them.
        generator: for the permutations.
    """
    half = len(counts) // 2
    found = counts[:half].sum()
    order = torch.rand(PERMUTATIONS, len(counts), generator=generator).argsort(1)[:, :half]
    as_large = (counts[order].sum(1) >= found * (1 - ROUNDING)).sum().item()
    return (found / counts.sum()).item(), (1 + as_large) / (1 + PERMUTATIONS)


def _balls(center: Tensor, other: Tensor, nearest: int) -> tuple[Tensor, Tensor]:
    """How many of `other`, `[M, D]`, lie in each ball about `center`, `[N]`; and which of them lie in any, `[M]`."""
    origin = center.mean(0)  # far from it, products would lose what distances differ by
    center, other = center - origin, other - origin
    inside, hit = [], torch.zeros(len(other), dtype=torch.bool)
    for few in center.split(CHUNK):
        radius = torch.cdist(few, center).kthvalue(nearest + 1, dim=1).values  # the first of them is the point itself
        lost = LOST * (few.square().sum(1, True) + other.square().sum(1))
        within = torch.cdist(few, other).square() <= radius.square()[:, None] + lost
        inside.append(within.sum(1))
        hit |= within.any(0)
    return torch.cat(inside), hit
