"""What a likelihood is: the base class of those in `likelihoods`."""

from typing import Annotated

import pyro.distributions as dist
from torch import Tensor, nn

from ppvae.rules import Instance


class Likelihood(nn.Module):
    """The base class of likelihoods: forward takes z and returns p(x | z); `init_from` initializes it from data."""

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z) for z in `[*, D]`."""
        raise NotImplementedError

    def init_from(self, x: Tensor) -> None:
        """Initializes from data: output biases at the mean of x, a learned scale at its spread."""
        raise NotImplementedError


AnyLikelihood = Annotated[Likelihood, Instance(nn.Module)]
"""What a pair takes: a likelihood, or another module whose forward returns p(x | z)."""
