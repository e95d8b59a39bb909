"""Priors: modules whose forward returns the distribution p(z)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn


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

    def __init__(self, num_latents: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
