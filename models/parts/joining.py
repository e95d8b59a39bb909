"""Vectors side by side, as networks take them."""

import torch
from torch import Tensor


def joined(*vectors: Tensor) -> Tensor:
    """Vectors `[*, D_i]` side by side, `[*, sum_i D_i]`; their leading dimensions are broadcast."""
    leading = torch.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
    return torch.cat([vector.expand(*leading, vector.shape[-1]) for vector in vectors], -1)
