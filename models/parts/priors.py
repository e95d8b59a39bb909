"""Priors: modules whose forward returns the distribution p(z)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineCoupling
from pyro.nn import DenseNN
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Few, Observed, Size, Sizes, checked
from ppvae.models.parts.couplings import Reverse, halves
from ppvae.models.parts.mixtures import Mixture
from ppvae.models.parts.registry import NamedPart, Registry
from ppvae.networks import inverse_softplus
from ppvae.refusals import refuse_shape
from ppvae.rules import Number

Correlation = Annotated[float, Number(above=0, below=1, said="a correlation between 0 and 1")]


class StandardNormal(nn.Module):
    """`p(z) = N(0, I)`.

    Args:
        num_latents: D.

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    @checked
    def __init__(self, num_latents: Size):
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class MixturePrior(nn.Module):
    """`p(z) = sum_m pi_m N(z; mu_m, diag sigma_m^2)`, with all parameters learned.

    With a linear decoder p(x) is a mixture of Gaussians too. The KL to it has no closed form.

    Source: Dilokthanakul et al. 2016 (arXiv:1611.02648).

    Args:
        num_latents: D.
        num_components: M.

    Example:
        >>> MixturePrior(3, num_components=5)().event_shape
        torch.Size([3])
    """

    @checked
    def __init__(self, num_latents: Size, num_components: Size = 10):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, num_latents))
        self.unconstrained_scale = nn.Parameter(inverse_softplus(torch.ones(num_components, num_latents)))

    def forward(self) -> dist.TorchDistribution:
        components = dist.Normal(self.loc, softplus(self.unconstrained_scale)).to_event(1)
        return Mixture(dist.Categorical(logits=self.logits), components)


class VampPrior(nn.Module):
    """`p(z) = 1/M sum_m q(z | u_m)`: the guide's own posterior, averaged over M learned pseudo-inputs u.

    The best prior for a guide is its posterior averaged over the data; this is the average over a few learned points
    that stand for them. The guide's parameters then belong to the model too, so the ledger cannot train the guide
    further with the model frozen. The KL to it has no closed form. Its density takes M densities of the posterior,
    which are cheap for Gaussians and expensive for flows.

    Source: Tomczak & Welling 2018 (arXiv:1705.07120).

    Args:
        posterior: the guide's; forward(x) returns q(z | x). It is not registered as a submodule again.
        event_shape: of x.
        num_components: M.

    Example:
        >>> from ppvae.models import DiagonalNormal
        >>> VampPrior(DiagonalNormal(nn.Linear(5, 6)), event_shape=(5,))().event_shape
        torch.Size([3])
    """

    logits: Tensor

    @checked
    def __init__(self, posterior: nn.Module, event_shape: Sizes, num_components: Size = 50):
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.rand(num_components, *event_shape))
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)
        self._posterior = (posterior,)  # in a tuple, where torch does not look for modules

    def forward(self) -> dist.TorchDistribution:
        (posterior,) = self._posterior
        return Mixture(dist.Categorical(logits=self.logits), posterior(self.pseudo_inputs))

    @checked
    def init_from(self, x: Observed) -> None:
        """Starts the pseudo-inputs at data points drawn at random."""
        refuse_shape(x, self.pseudo_inputs.shape[1:])
        num = len(self.pseudo_inputs)
        index = torch.randperm(max(len(x), num))[:num] % len(x)
        self.pseudo_inputs.data.copy_(x[index.to(x.device)].view_as(self.pseudo_inputs))


class FlowPrior(nn.Module):
    """`z = T_n(... T_1(e))`, e ~ N(0, I), with affine couplings T; the order of entries is reversed after each.

    Each coupling shifts and scales half of z by a network of the other half; all start as the identity. The density is
    exact and continuous: for clusters with nothing between them prefer `MixturePrior`.

    Source: Dinh et al. 2017 (arXiv:1605.08803); as a prior: Chen et al. 2017 (arXiv:1611.02731).

    Args:
        num_latents: D, at least 2.
        num_couplings: n.
        num_hidden: hidden units of each coupling's network.

    Raises:
        ValueError: fewer than two latents, which have no halves.

    Example:
        >>> FlowPrior(3)().sample((7,)).shape
        torch.Size([7, 3])
    """

    @checked
    def __init__(self, num_latents: Size, num_couplings: Few = 4, num_hidden: Size = 64):
        super().__init__()
        self.split, moved = halves("num_latents", num_latents)
        self.base = StandardNormal(num_latents)
        self.networks = nn.ModuleList()
        for _ in range(num_couplings):
            network = DenseNN(self.split, [num_hidden], [moved] * 2)
            for p in network.layers[-1].parameters():
                nn.init.zeros_(p)
            self.networks.append(network)

    def forward(self) -> dist.TorchDistribution:
        base = self.base()
        transforms: list[dist.transforms.Transform] = []
        for network in self.networks:
            transforms += [AffineCoupling(self.split, network), Reverse(cache_size=1)]
        return dist.TransformedDistribution(base, transforms)


class AR1Prior(nn.Module):
    """`z_1 ~ N(0, 1)`, `z_t | z_{t-1} ~ N(alpha z_{t-1}, 1 - alpha^2)`: a prior that a factorized guide cannot match.

    Each latent is N(0, 1), and neighbors are correlated. So a guide that is a factorized Gaussian given x, whatever its
    means and scales, pays for D latents a KL of at least

    `((D - 2) log(1 + alpha^2) - log(1 - alpha^2)) / 2`, and so more than `log(1 + alpha^2) / 2` for each but the first:

    the latents are not given up. It is reached at mean 0 and variances `(1 - alpha^2) / (1 + alpha^2)`, at both ends
    `1 - alpha^2`. Whether they say anything of x is another matter.

    When it does not apply: a guide with correlations can match the prior, and pay nothing.

    Source: Razavi et al. 2019 (arXiv:1901.03416), the delta-VAE.

    Args:
        num_latents: D, in the order of the chain.
        alpha: correlation of neighbors, above 0 and below 1.

    Example:
        >>> prior = AR1Prior(3, alpha=0.5)
        >>> prior().covariance_matrix
        tensor([[1.0000, 0.5000, 0.2500],
                [0.5000, 1.0000, 0.5000],
                [0.2500, 0.5000, 1.0000]])
        >>> round(prior.least_rate, 4)
        0.2554
    """

    loc: Tensor
    scale_tril: Tensor

    @checked
    def __init__(self, num_latents: Size, alpha: Correlation = 0.9):
        super().__init__()
        self.alpha = alpha
        step = torch.arange(num_latents)
        powers = (alpha ** (step.unsqueeze(1) - step).clamp(min=0)).tril()
        innovation = torch.where(step > 0, (1 - alpha**2) ** 0.5, 1.0)
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale_tril", powers * innovation, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    @property
    def least_rate(self) -> float:
        """The least KL of a factorized Gaussian from this prior, in nats."""
        num = len(self.loc)
        return ((num - 2) * math.log1p(self.alpha**2) - math.log1p(-(self.alpha**2))) / 2 if num > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class NamedPrior(NamedPart):
    """A prior by name.

    Attributes:
        make: makes the prior from D, the number of latents; the guide's posterior; and the shape of x.
    """

    make: Callable[[int, nn.Module, Sequence[int]], nn.Module]


PRIORS = Registry(
    "prior",
    "for another, build the pair of modules",
    NamedPrior(
        name="normal",
        module=StandardNormal,
        summary="N(0, I)",
        source="Kingma & Welling 2014",
        make=lambda num_latents, posterior, event_shape: StandardNormal(num_latents),
    ),
    NamedPrior(
        name="mixture",
        module=MixturePrior,
        summary="ten diagonal Gaussians, all learned",
        source="Dilokthanakul et al. 2016",
        make=lambda num_latents, posterior, event_shape: MixturePrior(num_latents),
    ),
    NamedPrior(
        name="vamp",
        module=VampPrior,
        summary="the guide's posterior averaged over fifty learned pseudo-inputs",
        source="Tomczak & Welling 2018",
        make=lambda num_latents, posterior, event_shape: VampPrior(posterior, event_shape),
    ),
    NamedPrior(
        name="flow",
        module=FlowPrior,
        summary="affine couplings of N(0, I)",
        source="Dinh et al. 2017",
        make=lambda num_latents, posterior, event_shape: FlowPrior(num_latents),
    ),
    NamedPrior(
        name="ar1",
        module=AR1Prior,
        summary="N(0, 1) each, neighbors correlated by 0.9: a factorized guide pays for it",
        source="Razavi et al. 2019",
        make=lambda num_latents, posterior, event_shape: AR1Prior(num_latents),
    ),
)
