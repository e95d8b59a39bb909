"""Real latents one after another: a prior, or a transition of a hierarchy, by a masked network."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppvae.arguments import Natural, Size, Sizes, checked
from ppvae.models.autoregressive.made import MaskedLinear
from ppvae.networks import inverse_softplus


class AutoregressiveFlowPrior(nn.Module):
    """`p(z | h) = prod_i N(z_i; mu_i(z_<i, h), sigma_i^2(z_<i, h))`, an affine autoregressive flow of N(0, I).

    The density takes one pass of the network, a draw one for each latent: the right way round for a prior, whose
    density is what the ELBO asks for. It starts as N(0, I). With an `AutoregressiveLikelihood` that sees only near
    pixels it makes a variational lossy autoencoder, whose latents hold what such a view misses. Given h, it is an
    autoregressive p(z_l | z_{l+1}) between the layers of `MarkovHVAE`, for guides that do not run downwards.

    Source: Chen et al. 2017 (arXiv:1611.02731); between layers: Gulrajani et al. 2017 (arXiv:1611.05013).

    Args:
        num_latents: D.
        hidden: sizes of the hidden layers, at least D.
        num_condition: size of h, `[*, num_condition]`; 0 for none.

    Example:
        >>> AutoregressiveFlowPrior(3)().sample((7,)).shape
        torch.Size([7, 3])
        >>> AutoregressiveFlowPrior(3, num_condition=2)(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    @checked
    def __init__(self, num_latents: Size, hidden: Sizes = (64,), num_condition: Natural = 0):
        super().__init__()
        self.num_latents = num_latents
        seen, layers = torch.arange(num_latents) + 1, []
        for size in hidden:
            degrees = torch.arange(size) * num_latents // size
            layers.append(MaskedLinear(seen, degrees, num_condition))
            seen = degrees
        self.hidden = nn.ModuleList(layers)
        self.last = MaskedLinear(seen, torch.arange(num_latents).repeat_interleave(2), num_condition)
        for p in self.last.parameters():
            nn.init.zeros_(p)
        self.last.bias.data[1::2] = inverse_softplus(torch.ones(()))

    def forward(self, h: Tensor | None = None) -> "AutoregressiveNormal":
        return AutoregressiveNormal(self, h)

    def of_each(self, z: Tensor, h: Tensor | None) -> Normal:
        """The distribution of each latent given those before it, `[*, D]`."""
        units = z
        for layer in self.hidden:
            units = layer(units, h).tanh()
        loc, unconstrained = self.last(units, h).unflatten(-1, (-1, 2)).unbind(-1)
        return Normal(loc, softplus(unconstrained))


class AutoregressiveNormal(TorchDistribution):
    """Real numbers, each a Gaussian given those before it.

    Args:
        network: says which.
        h: the condition, `[*, num_condition]`, with the batch shape `[*]`; None for none.
        batch_shape: whose draws are independent.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, network: AutoregressiveFlowPrior, h: Tensor | None, batch_shape: Sequence[int] | None = None):
        self.network, self.h = network, h
        own = torch.Size() if h is None else h.shape[:-1]
        shape = own if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, torch.Size([network.num_latents]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        log_p = self.network.of_each(value, self.h).log_prob(value).sum(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        z = self.network.last.weight.new_zeros(self._extended_shape(torch.Size(sample_shape)))
        for i in range(self.network.num_latents):
            z[..., i] = self.network.of_each(z, self.h).sample()[..., i]
        return z

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "AutoregressiveNormal":
        return AutoregressiveNormal(self.network, self.h, batch_shape)
