"""Jacobians of vector maps: in full, and the random probes that estimate their traces."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap


def jacobian(x: Tensor, pullback: Callable[..., Any]) -> Tensor:
    """dy/dx, `[*, D, D]`, of a function of vectors x `[*, D]`, by the pullback that `torch.func.vjp` returns with y."""
    basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return vmap(lambda row: pullback(row.expand_as(x))[0], out_dims=-2)(basis)


def random_signs(x: Tensor) -> Tensor:
    """-1 or 1 for each entry: the probes e with which Hutchinson's trace estimate `e' A e` has the least variance."""
    return 2 * torch.rand_like(x).round() - 1
