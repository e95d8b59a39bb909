"""Gaussian conditionals: modules whose forward takes h and returns a distribution of z given h.

As guides they are the posterior families q(z | x); between layers, the transitions p(z_l | z_{l+1}) of a hierarchy.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import NonNegative, Size, checked
from ppvae.models.parts.mixtures import Mixture
from ppvae.networks import output_bias

SHARED = 0.1
"""The share of a mixture's weight that is split equally among its components."""


class DiagonalNormal(nn.Module):
    """`N(mu(h), diag sigma^2(h))`, with mu and sigma the two halves of a network's output.

    Source: Kingma & Welling 2014 (arXiv:1312.6114).

    Args:
        network: `[*, H] -> [*, 2 D]`; sigma is the softplus of the second half, plus `min_scale`.
        min_scale: lower bound of sigma.

    Example:
        >>> DiagonalNormal(nn.Linear(5, 6))(torch.zeros(4, 5)).event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, network: nn.Module, min_scale: NonNegative = 0.0):
        super().__init__()
        self.network = network
        self.min_scale = min_scale

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        loc, unconstrained = self.network(h).chunk(2, -1)
        return dist.Normal(loc, self.min_scale + softplus(unconstrained)).to_event(1)


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

    @checked
    def __init__(self, network: nn.Module, num_latents: Size):
        super().__init__()
        self.network = network
        self.num_latents = num_latents
        self.register_buffer("tril_index", torch.tril_indices(num_latents, num_latents), persistent=False)

    @staticmethod
    @checked
    def num_outputs(num_latents: Size) -> int:
        """The size of the network's output for D latents."""
        return num_latents + num_latents * (num_latents + 1) // 2

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        D = self.num_latents
        loc, entries = self.network(h).split([D, D * (D + 1) // 2], -1)
        lower = entries.new_zeros(*entries.shape[:-1], D, D)
        lower[..., self.tril_index[0], self.tril_index[1]] = entries
        scale_tril = lower.tril(-1) + softplus(lower.diagonal(dim1=-2, dim2=-1)).diag_embed()
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(nn.Module):
    """`N(mu(h), diag sigma^2(h) + W(h) W(h)')`, with W of R columns: correlations from R D numbers, not D^2 / 2.

    Source: Rezende et al. 2014 (arXiv:1401.4082), with rank one.

    Args:
        network: `[*, H] -> [*, (2 + R) D]`: mu, sigma before its softplus, then the rows of W.
        num_latents: D.
        rank: R.

    Example:
        >>> LowRankNormal(nn.Linear(5, 12), num_latents=3, rank=2)(torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 3, 3])
    """

    @checked
    def __init__(self, network: nn.Module, num_latents: Size, rank: Size = 2):
        super().__init__()
        self.network = network
        self.num_latents = num_latents
        self.rank = rank

    @staticmethod
    @checked
    def num_outputs(num_latents: Size, rank: Size = 2) -> int:
        """The size of the network's output."""
        return (2 + rank) * num_latents

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        D = self.num_latents
        loc, unconstrained, entries = self.network(h).split([D, D, self.rank * D], -1)
        factor = entries.unflatten(-1, (D, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, softplus(unconstrained).square())


class NormalMixture(nn.Module):
    """`sum_m pi_m(h) N(mu_m(h), diag sigma_m^2(h))`: more than one mode, with an exact density.

    As a guide, its weights have score-function gradients and all else has reparameterized ones: see
    `ppvae.models.parts.mixtures`. So it needs two particles, `ppvae.ELBO(num_particles=2)`, or more. Components that
    are alike would stay alike, so their means start at draws from a standard normal. Early in training the ELBO gives
    nearly all weight to one component, and a component that is never drawn does not learn: so a tenth of the weight is
    split equally, `pi = 0.9 softmax + 0.1 / M`. The weight of a mode is still learned, as components may share a mode.

    Source: Morningstar et al. 2021 (arXiv:2003.01687).

    Args:
        network: `[*, H] -> [*, M (1 + 2 D)]`, with a bias at its output: M logits, the M mu, and the M sigma
            before their softplus.
        num_latents: D.
        num_components: M.

    Example:
        >>> NormalMixture(nn.Linear(5, 14), num_latents=3, num_components=2)(torch.zeros(4, 5)).event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, network: nn.Module, num_latents: Size, num_components: Size = 4):
        super().__init__()
        self.network = network
        self.num_latents = num_latents
        self.num_components = num_components
        size = num_components * num_latents
        output_bias(network).data[num_components : num_components + size].normal_()

    @staticmethod
    @checked
    def num_outputs(num_latents: Size, num_components: Size = 4) -> int:
        """The size of the network's output."""
        return num_components * (1 + 2 * num_latents)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        M = self.num_components
        logits, rest = self.network(h).split([M, 2 * M * self.num_latents], -1)
        loc, unconstrained = rest.unflatten(-1, (2, M, self.num_latents)).unbind(-3)
        weights = (1 - SHARED) * logits.softmax(-1) + SHARED / M
        return Mixture(dist.Categorical(weights), dist.Normal(loc, softplus(unconstrained)).to_event(1))
