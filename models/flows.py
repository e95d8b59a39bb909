"""Flow posteriors: Gaussian draws moved by invertible maps that depend on x."""

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import Permute, conditional_affine_coupling
from torch import Tensor, nn

from ppvae.models.conditionals import DiagonalNormal


class CouplingFlow(nn.Module):
    """`z = T_n(... T_1(z_0; h); h)`, z_0 ~ N(mu(x), diag sigma^2(x)), with affine couplings T and h = (mu, log sigma).

    Each coupling shifts and scales half of z by a network of the other half and of h; then the order is reversed.
    Densities are exact both ways. It cannot tear one mode into two: maps are continuous.

    Source: Rezende & Mohamed 2015 (arXiv:1505.05770); couplings: Dinh et al. 2017 (arXiv:1605.08803).

    Args:
        network: `[*, H] -> [*, 2 D]`, as of `DiagonalNormal`.
        num_latents: D, at least 2.
        num_couplings: n.
        num_hidden: of each coupling's network.

    Raises:
        ValueError: fewer than two latents, of which there are no halves.

    Example:
        >>> posterior = CouplingFlow(nn.Linear(5, 6), num_latents=3)
        >>> posterior(torch.zeros(4, 5)).rsample().shape
        torch.Size([4, 3])
    """

    def __init__(self, network: nn.Module, num_latents: int, num_couplings: int = 4, num_hidden: int = 64):
        super().__init__()
        if num_latents < 2:
            raise ValueError(
                f"num_latents: found {num_latents}, expected at least 2, for a coupling to have two halves"
            )
        self.base = DiagonalNormal(network)
        self.couplings = nn.ModuleList(
            conditional_affine_coupling(num_latents, 2 * num_latents, [num_hidden]) for _ in range(num_couplings)
        )
        self.num_latents = num_latents

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        base = self.base(h)
        context = torch.cat([base.base_dist.loc, base.base_dist.scale.log()], -1)
        reversal = Permute(torch.arange(self.num_latents - 1, -1, -1, device=context.device))
        transforms: list[dist.transforms.Transform] = []
        for coupling in self.couplings:
            transforms += [coupling.condition(context), reversal]  # type: ignore[operator]
        return dist.TransformedDistribution(base, transforms)
