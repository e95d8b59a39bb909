"""Gaussian conditionals: modules whose forward takes h and returns a distribution of z given h.

As guides they are the posterior families q(z | x); between layers, the transitions p(z_l | z_{l+1}) of a hierarchy.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class DiagonalNormal(nn.Module):
    """`N(mu(h), diag sigma^2(h))`, with mu and sigma the two halves of a network's output.

    Source: Kingma & Welling 2014 (arXiv:1312.6114).

    Args:
        network: `[*, H] -> [*, 2 D]`; sigma is the softplus of the second half.

    Example:
        >>> DiagonalNormal(nn.Linear(5, 6))(torch.zeros(4, 5)).event_shape
        torch.Size([3])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        loc, unconstrained = self.network(h).chunk(2, -1)
        return dist.Normal(loc, softplus(unconstrained)).to_event(1)


class FullNormal(nn.Module):
    """`N(mu(h), L(h) L(h)')`, with the lower-triangular Cholesky factor L from the network.

    The diagonal of L is the softplus of its entries, so that the covariance is positive definite.

    Args:
        network: `[*, H] -> [*, D + D (D + 1) / 2]`: mu, then the rows of L.
        num_latents: D.

    Example:
        >>> FullNormal(nn.Linear(5, 9), num_latents=3)(torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 3, 3])
    """

    tril_index: Tensor

    def __init__(self, network: nn.Module, num_latents: int):
        super().__init__()
        self.network = network
        self.num_latents = num_latents
        self.register_buffer("tril_index", torch.tril_indices(num_latents, num_latents), persistent=False)

    @staticmethod
    def num_outputs(num_latents: int) -> int:
        """The size of the network's output for D latents."""
        return num_latents + num_latents * (num_latents + 1) // 2

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        D = self.num_latents
        loc, entries = self.network(h).split([D, D * (D + 1) // 2], -1)
        lower = entries.new_zeros(*entries.shape[:-1], D, D)
        lower[..., self.tril_index[0], self.tril_index[1]] = entries
        scale_tril = lower.tril(-1) + softplus(lower.diagonal(dim1=-2, dim2=-1)).diag_embed()
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
