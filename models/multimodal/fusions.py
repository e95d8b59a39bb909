"""Guides `q(z | x_S)` for any subset S of modalities: modules whose forward takes all of them, and which are there."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import checked
from ppvae.models.multimodal.missing import by_modality
from ppvae.models.parts.mixtures import Mixture


class ProductOfExperts(nn.Module):
    """`q(z | x_S) ~ N(z; 0, I) prod_{m in S} q_m(z | x_m)`: a Gaussian, whose precision is one plus the experts'.

    The prior is one of the experts, so q is the prior where nothing is there. An expert stands for the likelihood of
    z, `p(x_m | z)` up to a factor. Where these are Gaussians with diagonal precisions, the product is exact for every
    S. Elsewhere it may be overconfident, as precisions add up whether experts agree or not: `ppvae.gap_by_pattern`
    measures that. Train on subsets (`MultimodalVAE.hide_at_random`): from complete data alone, experts learn to be
    right together, not each by itself.

    Source: Wu & Goodman 2018 (arXiv:1802.05335).

    Args:
        experts: by modality; forward(x_m) returns a diagonal Normal, as `DiagonalNormal` does.

    Example:
        >>> from ppvae.models import DiagonalNormal
        >>> experts = {"a": DiagonalNormal(nn.Linear(3, 4)), "b": DiagonalNormal(nn.Linear(5, 4))}
        >>> x, nothing = {"a": torch.zeros(1, 3), "b": torch.zeros(1, 5)}, torch.tensor([[False, False]])
        >>> ProductOfExperts(experts)(x, nothing).stddev.tolist()
        [[1.0, 1.0]]
    """

    @checked
    def __init__(self, experts: Mapping[str, nn.Module]):
        super().__init__()
        self.experts = by_modality("experts", experts)

    def forward(self, x: Mapping[str, Tensor], has: Tensor) -> dist.TorchDistribution:
        linear, precision = _natural_parameters(self.experts, x)
        return _product(linear, precision, has)


class MixtureOfProducts(nn.Module):
    """`q(z | x_S) = 1/N sum_k q(z | x_{S and A_k})`: an equal mixture of products of experts, one for each subset A_k.

    With single modalities as subsets it is the mixture of experts (Shi et al. 2019), with all subsets the mixture of
    products (Sutter et al. 2021), with the full one the product. Subsets of which nothing is there are left out, and
    where nothing is there at all, q is the prior. As in `ProductOfExperts`, each product has the prior as an expert.

    A mixture pays for components that know less than all of S: even where each component is the exact posterior given
    its own modalities, the gap is positive. Its KL has no closed form.

    Source: Shi et al. 2019 (arXiv:1911.03393); Sutter et al. 2021 (arXiv:2105.02470).

    Args:
        experts: by modality; forward(x_m) returns a diagonal Normal, as `DiagonalNormal` does.
        subsets: of the modalities, by name.

    Raises:
        ValueError: no subsets, or one that is empty or names another modality.

    Example:
        >>> from ppvae.models import DiagonalNormal
        >>> experts = {"a": DiagonalNormal(nn.Linear(3, 4)), "b": DiagonalNormal(nn.Linear(5, 4))}
        >>> of_experts = MixtureOfProducts(experts, [["a"], ["b"]])
        >>> of_experts({"a": torch.zeros(1, 3), "b": torch.zeros(1, 5)}, torch.tensor([[True, False]])).event_shape
        torch.Size([2])
    """

    subsets: Tensor

    @checked
    def __init__(self, experts: Mapping[str, nn.Module], subsets: Sequence[Sequence[str]]):
        super().__init__()
        if not subsets or not all(subset and set(subset) <= set(experts) for subset in subsets):
            raise ValueError(f"subsets: found {subsets!r}, expected one or more, each of some of {list(experts)}")
        self.experts = by_modality("experts", experts)
        members = torch.tensor([[name in subset for name in experts] for subset in subsets])
        self.register_buffer("subsets", members, persistent=False)

    def forward(self, x: Mapping[str, Tensor], has: Tensor) -> dist.TorchDistribution:
        linear, precision = _natural_parameters(self.experts, x)
        members = self.subsets & has.unsqueeze(-2)
        there = members.any(-1)
        left_out = ~there & there.any(-1, keepdim=True)
        logits = torch.zeros_like(there, dtype=precision.dtype).masked_fill(left_out, -torch.inf)
        products = _product(linear.unsqueeze(-3), precision.unsqueeze(-3), members)
        return Mixture(dist.Categorical(logits=logits), products)


class JointPosterior(nn.Module):
    """`q(z | x_S)` by a network for each modality, and a head that sees their features and which of them are there.

    Features of what is missing are zero. The head may be any posterior family, so this guide is as rich as that of a
    VAE; but it must learn every subset that it is to be used for.

    Args:
        networks: by modality, `[*, *event] -> [*, H_m]`.
        head: forward(h) returns q(z | h), for h in `[*, sum_m H_m + M]`: all features, and a one for each modality
            that is there.

    Example:
        >>> from ppvae.models import DiagonalNormal
        >>> networks = {"a": nn.Linear(3, 4), "b": nn.Linear(5, 4)}
        >>> x = {"a": torch.zeros(1, 3), "b": torch.zeros(1, 5)}
        >>> JointPosterior(networks, DiagonalNormal(nn.Linear(10, 4)))(x, torch.tensor([[True, False]])).event_shape
        torch.Size([2])
    """

    @checked
    def __init__(self, networks: Mapping[str, nn.Module], head: nn.Module):
        super().__init__()
        self.networks = by_modality("networks", networks)
        self.head = head

    def forward(self, x: Mapping[str, Tensor], has: Tensor) -> dist.TorchDistribution:
        features = [network(x[name]) for name, network in self.networks.items()]
        seen = [f * has[..., m, None] for m, f in enumerate(features)]
        return self.head(torch.cat([*seen, has.to(seen[0])], -1))


def _natural_parameters(experts: nn.ModuleDict, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Each expert's precision times location, and precision, `[*, M, D]`."""
    normals = [expert(x[name]).base_dist for name, expert in experts.items()]
    precision = torch.stack([normal.scale**-2 for normal in normals], -2)
    return torch.stack([normal.loc for normal in normals], -2) * precision, precision


def _product(linear: Tensor, precision: Tensor, members: Tensor) -> dist.TorchDistribution:
    """The prior times those experts, of M, that are `members`, `[*, M]`."""
    members = members.unsqueeze(-1).to(precision)
    total = 1 + (members * precision).sum(-2)
    return dist.Normal((members * linear).sum(-2) / total, total.rsqrt()).to_event(1)
