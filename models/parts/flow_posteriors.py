"""Flow posteriors: Gaussian draws moved by invertible maps that depend on x."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms import (
    ConditionalAffineAutoregressive,
    SplineCoupling,
    conditional_affine_coupling,
)
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN
from torch import Tensor, nn

from ppvae.arguments import Few, Positive, Size, checked
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.couplings import Reverse, halves


class FlowPosterior(nn.Module):
    """`z = T_n(... T_1(z_0; h); h)`, z_0 ~ N(mu(x), diag sigma^2(x)); the maps depend on `h = (mu, log sigma)`.

    After each map the order of z is reversed. Such maps are continuous: they cannot split one mode into two.

    Source: Rezende & Mohamed 2015 (arXiv:1505.05770).

    Args:
        network: `[*, H] -> [*, 2 D]`, as in `DiagonalNormal`.
        num_latents: D, at least 2.
        layers: the maps, of vectors of size D with a context of size 2 D.

    Raises:
        ValueError: fewer than two latents: no part could move another.
    """

    def __init__(self, network: nn.Module, num_latents: int, layers: Iterable[ConditionalTransformModule]):
        super().__init__()
        halves("num_latents", num_latents)
        self.base = DiagonalNormal(network)
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        base = self.base(h)
        context = torch.cat([base.base_dist.loc, base.base_dist.scale.log()], -1)
        transforms: list[dist.transforms.Transform] = []
        for layer in self.layers:  # each with its own caching reversal: densities of its draws are free
            transforms += [layer.condition(context), Reverse(cache_size=1)]  # type: ignore[operator]
        return dist.TransformedDistribution(base, transforms)


class CouplingFlow(FlowPosterior):
    """A `FlowPosterior` of affine couplings: each shifts and scales half of z by a network of the other half and of h.

    Densities are exact and cheap, of its own draws and of any other z.

    Source: Dinh et al. 2017 (arXiv:1605.08803).

    Args:
        network: `[*, H] -> [*, 2 D]`, as in `DiagonalNormal`.
        num_latents: D, at least 2.
        num_couplings: n.
        num_hidden: hidden units of each coupling's network.

    Raises:
        ValueError: fewer than two latents, which have no halves.

    Example:
        >>> posterior = CouplingFlow(nn.Linear(5, 6), num_latents=3)
        >>> posterior(torch.zeros(4, 5)).rsample().shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(self, network: nn.Module, num_latents: Size, num_couplings: Few = 4, num_hidden: Size = 64):
        layers = (conditional_affine_coupling(num_latents, 2 * num_latents, [num_hidden]) for _ in range(num_couplings))
        super().__init__(network, num_latents, layers)


class SplineFlow(FlowPosterior):
    """A `FlowPosterior` of spline couplings: splines of one half of z, with knots that depend on the other half and h.

    Between -bound and bound each spline is monotone, with ratios of linear functions as pieces, so a density may have
    several modes; outside, it is the identity.

    Source: Durkan et al. 2019 (arXiv:1906.04032); linear ratios: Dolatabadi et al. 2020 (arXiv:2001.05168).

    Args:
        network: `[*, H] -> [*, 2 D]`, as in `DiagonalNormal`.
        num_latents: D, at least 2.
        num_couplings: n.
        num_hidden: hidden units of each coupling's network.
        num_bins: pieces of each spline.
        bound: in the units of z.

    Raises:
        ValueError: fewer than two latents, which have no halves.

    Example:
        >>> posterior = SplineFlow(nn.Linear(5, 6), num_latents=3)
        >>> posterior(torch.zeros(4, 5)).rsample().shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        num_latents: Size,
        num_couplings: Few = 4,
        num_hidden: Size = 64,
        num_bins: Few = 8,
        bound: Positive = 5.0,
    ):
        layers = (_ConditionalSplineCoupling(num_latents, num_hidden, num_bins, bound) for _ in range(num_couplings))
        super().__init__(network, num_latents, layers)


class _ConditionalSplineCoupling(ConditionalTransformModule):
    """Pyro's `SplineCoupling` whose network takes a context too."""

    def __init__(self, num_latents: int, num_hidden: int, num_bins: int, bound: float):
        super().__init__()
        kept, moved = halves("num_latents", num_latents)
        sizes = [moved * num_bins, moved * num_bins, moved * (num_bins - 1), moved * num_bins]
        self.network = ConditionalDenseNN(kept, 2 * num_latents, [num_hidden], sizes)
        self._start_at_identity(slopes=slice(sum(sizes[:2]), sum(sizes[:3])))
        self.coupling = partial(SplineCoupling, num_latents, kept, count_bins=num_bins, bound=bound, identity=True)

    @torch.no_grad()
    def _start_at_identity(self, slopes: slice) -> None:
        """Starts nearly at it: bins as wide as high, and slopes of one after Pyro's softplus."""
        last: Any = self.network.layers[-1]
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[slopes] = math.log(math.e - 1)

    def condition(self, context: Tensor) -> dist.TransformModule:
        return self.coupling(partial(self.network, context=context))


class InverseAutoregressiveFlow(FlowPosterior):
    """A `FlowPosterior` that shifts and scales each latent by a masked network of those before it and of h.

    One pass of the network moves all of z: draws, and the densities of the flow's own draws, are as cheap as a
    coupling's, and each map moves all latents, not half of them. The density of any other z takes D passes in
    sequence. Gradients that hold z fixed ("stl", "dreg", and so refined guides), AIS that starts at the guide, and
    importance weights of draws from elsewhere need it: for these, with many latents, prefer `CouplingFlow`.

    Source: Kingma et al. 2016 (arXiv:1606.04934); masks: Germain et al. 2015 (arXiv:1502.03509).

    Args:
        network: `[*, H] -> [*, 2 D]`, as in `DiagonalNormal`.
        num_latents: D, at least 2.
        num_maps: n.
        num_hidden: hidden units of each map's network, at least D.

    Raises:
        ValueError: fewer than two latents, or fewer hidden units than latents.

    Example:
        >>> posterior = InverseAutoregressiveFlow(nn.Linear(5, 6), num_latents=3)
        >>> posterior(torch.zeros(4, 5)).rsample().shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(self, network: nn.Module, num_latents: Size, num_maps: Few = 4, num_hidden: Size = 64):
        if num_hidden < num_latents:
            raise ValueError(
                f"num_hidden: found {num_hidden}, expected at least {num_latents}, as many as latents, for each to "
                "depend on all before it"
            )
        layers = (autoregressive_map(num_latents, 2 * num_latents, num_hidden) for _ in range(num_maps))
        super().__init__(network, num_latents, layers)


def autoregressive_map(num_latents: int, num_context: int, num_hidden: int) -> ConditionalTransformModule:
    """`z_j -> exp(s_j) z_j + m_j`, with m_j and s_j from a masked network of `z_1 ... z_{j-1}` and a context."""
    order: Any = torch.arange(num_latents)
    network = ConditionalAutoRegressiveNN(num_latents, num_context, [num_hidden], permutation=order)
    del network.permutation  # Pyro loops over this tensor, which cannot be compiled
    network.permutation = range(num_latents)  # type: ignore[assignment]
    return ConditionalAffineAutoregressive(network)
