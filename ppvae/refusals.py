"""What is said of things that are refused."""

from typing import Any

from torch import Tensor
from torch.distributions import Independent

from ppvae.splitting import SplitDistribution


class ContractError(ValueError):
    """A pair, or what it was given, breaks the contract."""


def refuse_width(x: Tensor, num_features: int) -> None:
    """Refuses data whose rows are not of this many numbers."""
    if x.shape[-1:] != (num_features,):
        raise ValueError(
            f"x: found shape {list(x.shape)}, expected [N, {num_features}]; flatten each data point with x.flatten(1)"
        )


def family(fn: Any) -> str:
    """The name of a distribution, without the declaration that dimensions are event dimensions."""
    return family(fn.base_dist) if isinstance(fn, Independent | SplitDistribution) else type(fn).__name__
