"""Flows of coupling layers on vectors: NICE and RealNVP."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineCoupling
from torch import Tensor, nn
from torch.distributions import Transform

from ppvae.arguments import Few, Size, checked
from ppvae.models.flows.flow import Flow
from ppvae.models.parts.couplings import Reverse, halves
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import mlp


class NICE(Flow):
    """Additive couplings, `x_2 = z_2 + t(z_1)`, `x_1 = z_1`, of Gaussian noise with a learned scale for each entry.

    Additive couplings preserve volume: only the noise's scales stretch, each entry by the same factor everywhere. A
    density with both sharp and flat regions takes many couplings; `RealNVP` needs fewer.

    Source: Dinh et al. 2015 (arXiv:1410.8516).

    Args:
        num_features: D, at least 2.
        num_couplings: how many; the order of entries is reversed after each.
        hidden: sizes of the hidden layers of each t.

    Raises:
        ValueError: fewer than two features, which have no halves.

    Example:
        >>> NICE(num_features=4).sample(3).shape
        torch.Size([3, 4])
    """

    @checked
    def __init__(self, num_features: Size, num_couplings: Few = 6, hidden: Sequence[Size] = (64, 64)):
        super().__init__(_Scaled(num_features), _couplings(_Shift, num_features, num_couplings, hidden))


class RealNVP(Flow):
    """Affine couplings, `x_2 = exp(s(z_1)) z_2 + t(z_1)`, `x_1 = z_1`, of standard normal noise.

    For vectors; for images see `Glow`, which has this paper's multi-scale architecture. s is kept within [-5, 3].

    Source: Dinh et al. 2017 (arXiv:1605.08803).

    Args:
        num_features: D, at least 2.
        num_couplings: how many; the order of entries is reversed after each.
        hidden: sizes of the hidden layers of each network of s and t.

    Raises:
        ValueError: fewer than two features, which have no halves.

    Example:
        >>> RealNVP(num_features=4).sample(3).shape
        torch.Size([3, 4])
    """

    @checked
    def __init__(self, num_features: Size, num_couplings: Few = 6, hidden: Sequence[Size] = (64, 64)):
        super().__init__(StandardNormal(num_features), _couplings(_ShiftAndScale, num_features, num_couplings, hidden))


class _Scaled(nn.Module):
    """`p(z) = N(0, diag sigma^2)`."""

    def __init__(self, num_latents: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(num_latents))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class _Shift(nn.Module):
    """t(z_1), with a log scale of zero."""

    def __init__(self, num_in: int, hidden: Sequence[int], num_out: int):
        super().__init__()
        self.network = mlp(num_in, hidden, num_out)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift = self.network(z)
        return shift, torch.zeros_like(shift)


class _ShiftAndScale(nn.Module):
    """t(z_1) and s(z_1)."""

    def __init__(self, num_in: int, hidden: Sequence[int], num_out: int):
        super().__init__()
        self.network = mlp(num_in, hidden, 2 * num_out)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return self.network(z).chunk(2, -1)


def _couplings(
    network: type[nn.Module], num_features: int, num_couplings: int, hidden: Sequence[int]
) -> list[Transform]:
    kept, moved = halves("num_features", num_features)
    couplings: list[Transform] = []
    for _ in range(num_couplings):
        couplings += [AffineCoupling(kept, network(kept, hidden, moved)), Reverse()]
    return couplings
