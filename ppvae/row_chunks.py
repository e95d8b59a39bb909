"""What a pair makes of all its data, a few rows at a time: in evaluation mode, without gradients, changing nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows, tensors
from ppvae.conversion import to_pair
from ppvae.mode import mode
from ppvae.progress import progress_bar

AT_ONCE = 2_000
"""Rows times particles of a chunk: few enough for images and convolutions, enough to keep a machine busy."""


@torch.no_grad()
def over_rows(
    pair: Any, batch: Batch, num_particles: int, function: Callable[[Batch], dict[str, Tensor]], dim: int = 0
) -> dict[str, Tensor]:
    """`function` of all rows of a batch, a chunk after another; the results are where the batch is.

    Args:
        pair: the model and guide.
        batch: B data points; each chunk is copied to the pair's device and precision.
        num_particles: K, which makes chunks smaller.
        function: of a chunk, to results that have its rows along `dim`.
        dim: along which results are put together.
    """
    num = num_rows(batch)
    size = num if pair.own_rows is not None else max(1, AT_ONCE // num_particles)
    device = next(iter(tensors(batch).values())).device
    parts, nums = [], []
    bar = progress_bar(shown=True, total=num, unit="point", delay=1, leave=False)
    with mode(pair, training=False), bar:
        for start in range(0, num, size):
            nums.append(min(size, num - start))
            found = function(to_pair(rows(batch, slice(start, start + size)), pair))
            parts.append({name: t.to(device) for name, t in found.items()})
            bar.update(size)
    return joined(parts, nums, dim)


def joined(parts: Sequence[Mapping[str, Tensor]], nums: Sequence[int], dim: int = 0) -> dict[str, Tensor]:
    """Results of several chunks by name, put together; NaN for the rows of a chunk that has none of that name.

    A model that goes up to the longest row of its batch has fewer sites where rows are short.

    Args:
        parts: of each chunk.
        nums: rows of each chunk.
        dim: where the rows are.

    Example:
        >>> joined([{"a": torch.ones(1)}, {"a": torch.zeros(2), "b": torch.ones(2)}], [1, 2])
        {'a': tensor([1., 0., 0.]), 'b': tensor([nan, 1., 1.])}
    """
    like = {name: t for part in reversed(parts) for name, t in part.items()}
    order = {name: None for part in sorted(parts, key=len, reverse=True) for name in part}
    return {
        name: torch.cat(
            [part.get(name, _nan(like[name], num, dim)) for part, num in zip(parts, nums, strict=True)], dim
        )
        for name in order
    }


def _nan(like: Tensor, num: int, dim: int) -> Tensor:
    """Of the shape of another result, but for the number of rows."""
    shape = [*like.shape[:dim], num, *like.shape[dim + 1 :]]
    return like.new_full(shape, torch.nan, dtype=like.dtype if like.is_floating_point() else torch.double)
