"""What is said of things that are refused."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from ppvae.splitting import SplitDistribution


class ContractError(ValueError):
    """A pair, or what it was given, breaks the contract."""


class SupportError(ContractError):
    """A value to which a distribution gives no density."""


def refuse_shape(x: Tensor, event_shape: Sequence[int]) -> None:
    """Refuses data whose rows are not of this shape."""
    if tuple(x.shape[x.dim() - len(event_shape) :]) != tuple(event_shape):
        sizes = ", ".join(map(str, event_shape))
        raise ValueError(f"x: found shape {list(x.shape)}, expected [N, {sizes}]; give each data point that shape")


def fitting(x: Tensor, event_shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Data for a closed form that computes in this type, which must hold them: whole numbers pass, wider ones do not.

    Raises:
        ValueError: rows of another shape.
        TypeError: a type that would lose digits.
    """
    refuse_shape(x, event_shape)
    if torch.promote_types(x.dtype, dtype) != dtype:
        raise TypeError(
            f"x: found dtype {x.dtype}, expected the pair's {dtype}; convert by x.to({dtype}), or the pair by "
            f"pair.to({x.dtype})"
        )
    return x.to(dtype)


def family(fn: Any) -> str:
    """The name of a distribution, without its mask and the declaration that dimensions are event dimensions."""
    inside = isinstance(fn, Independent | SplitDistribution | MaskedDistribution)
    return family(fn.base_dist) if inside else type(fn).__name__
