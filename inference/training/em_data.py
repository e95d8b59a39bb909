"""The data that EM takes."""

import warnings
from typing import Any

from torch import Tensor

from ppvae.batches import as_batch

FEW = 10  # data points may have two values of a feature by chance


def points_of(data: Any, num_features: int) -> Tensor:
    """Data points `[N, D]`; anything else is refused."""
    points = as_batch(data)
    if not isinstance(points, Tensor) or points.dim() != 2:
        found = list(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"data: found {found}, expected one tensor or array [N, D]; flatten each data point first")
    if points.shape[1] != num_features:
        raise ValueError(
            f"data: found shape {list(points.shape)}, expected [N, {num_features}], as the mixture's means"
        )
    return points


def warn_of_atoms(x: Tensor, covariance_floor: float) -> None:
    """A density may be as high as the floor allows where values repeat, and says nothing of other data there."""
    lowest, highest = x.amin(0), x.amax(0)
    of_two = ((x == lowest) | (x == highest)).all(0) & (lowest < highest)
    if len(x) > FEW and 2 * of_two.sum() > (lowest < highest).sum():
        warnings.warn(
            f"data: found {int(of_two.sum())} features of {x.shape[1]} with two values alone, on which a mixture's "
            f"density rises as far as covariance_floor={covariance_floor:g} lets it, and other data may lose thousands "
            "of nats; use a higher floor, or a model of probabilities, such as VAE.mlp with a Bernoulli likelihood",
            stacklevel=4,
        )
