"""What is lost where numbers are converted to another precision: digits by which data differ."""

import torch
from torch import Tensor

from ppvae.batches import some_rows

LOOKED_AT = 1000
"""Data points by which is told whether a conversion keeps what they differ by."""

MOST_LOST = 0.01
"""Of an entry's standard deviation, what rounding may take. Half precision takes more of all data, and may."""

SINGLE = torch.finfo(torch.float32).eps

ROUNDING_ERROR = 1e-12
"""Of a number, below which differences are double precision's own."""


def refuse_lost_digits(
    name: str, t: Tensor, own: torch.dtype, remedy: str = "make the pair double: pair.double()"
) -> None:
    """Refuses numbers that would be much the same in another precision, as seconds since 1970 are.

    Args:
        name: of the numbers, for the error.
        t: `[N, *]`, as they are.
        own: the precision to which they are to be converted.
        remedy: how to have them in double precision.
    """
    finer = not t.is_floating_point() or torch.finfo(t.dtype).eps < torch.finfo(own).eps
    if not finer or torch.finfo(own).eps > SINGLE or t.dim() == 0 or len(t) < 2:
        return
    few = t.detach()[some_rows(len(t), LOOKED_AT)].double()
    lost, spread = (few - few.to(own)).abs().amax(0), few.std(0)
    if not (bad := (lost > MOST_LOST * spread) & (spread > ROUNDING_ERROR * few.abs().amax(0))).any():
        return
    place = tuple(bad.nonzero()[0].tolist())
    raise ValueError(
        f"{name}: found numbers near {few[(0, *place)]:.4g} with a standard deviation of {spread[place]:.2g}"
        f"{f' at index {list(place)} of a data point' if place else ''}, of which {own} keeps too little, expected "
        "data that this precision can tell apart; subtract their mean and divide by their standard deviation, or "
        f"{remedy}"
    )
