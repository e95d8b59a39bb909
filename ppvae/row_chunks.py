"""What a pair makes of all its data, a few rows at a time: in evaluation mode, without gradients, changing nothing."""

from collections.abc import Callable
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
    parts = []
    bar = progress_bar(shown=True, total=num, unit="point", delay=1, leave=False)
    with mode(pair, training=False), bar:
        for start in range(0, num, size):
            found = function(to_pair(rows(batch, slice(start, start + size)), pair))
            parts.append({name: t.to(device) for name, t in found.items()})
            bar.update(size)
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
