"""Weights of data points."""

from typing import Any

from torch import Tensor

from ppvae.sources import as_tensor, is_array, listed_numbers, refuse_special


def data_weights(weights: Any, num_points: int) -> Tensor:
    """Weights of N data points as a tensor `[N]` in float64, scaled to a mean of one.

    Args:
        weights: `[N]`, a tensor, an array or a list; finite, not negative, not all zero.
        num_points: N.

    Raises:
        ValueError: weights out of range (the data point is named), or another number of them.

    Example:
        >>> data_weights([2, 1, 0], 3)
        tensor([2., 1., 0.], dtype=torch.float64)
    """
    refuse_special("weights", weights)
    if isinstance(weights, list | tuple):
        weights = listed_numbers("weights", weights)
    found = as_tensor("weights", weights) if is_array(weights) else weights
    if not isinstance(found, Tensor) or found.shape != (num_points,):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"weights: found {shape}, expected one for each data point, [{num_points}]")
    found = found.detach().double()
    bad = ~(found.isfinite() & (found >= 0))
    if bad.any():
        point = int(bad.nonzero()[0])
        raise ValueError(
            f"weights: found {found[point].item()} for data point {point} ({int(bad.sum())} such weights in all), "
            "expected finite ones, 0 or more; 0 leaves a data point out"
        )
    if not found.any():
        raise ValueError("weights: found 0 for all data points, expected one above it; 1 counts a data point as it is")
    return found / found.mean()
