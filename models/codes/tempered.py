"""Distributions over codes that leave none out: softened nearest codes at several temperatures, mixed with a prior."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppvae.models.codes.code_vectors import CodeVectors, squared_distances
from ppvae.models.codes.codebook import Codebook

TEMPERATURES = (0.05, 0.2, 1.0, 3.0)


@dataclass(frozen=True)
class Softened:
    """`(sum_tau prod_p softmax_k(-|h_p - e_k|^2 / (tau s^2))[c_p] + p(c)) / (T + 1)`, s^2 the codes' variance.

    Attributes:
        temperatures: tau, T of them.
    """

    temperatures: tuple[float, ...]

    def __call__(self, codebook: Codebook, h: Tensor, event_dim: int, prior: Callable[[], Any]) -> CodeVectors:
        codes = codebook.codes
        apart = (codes != codes[:, :1]).flatten(1).any(1, keepdim=True)
        variance = codes.var(1, correction=0).sum(-1, keepdim=True).masked_fill(~apart, torch.inf)
        logits = -squared_distances(codebook.scaled(h), codes) / variance
        softened = [dist.Categorical(logits=logits / tau).to_event(event_dim - 1) for tau in self.temperatures]
        return CodeVectors(Blend([*softened, prior()]), codes)


class Blend(dist.TorchDistribution):
    """The mixture, with equal weights, of distributions over indices that need not be of one family.

    Args:
        components: of one event shape; their batch shapes broadcast.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    support = constraints.nonnegative_integer

    def __init__(self, components: Sequence[Any]):
        shape = torch.broadcast_shapes(*(each.batch_shape for each in components))
        self.components = [each.expand(shape) for each in components]
        super().__init__(shape, self.components[0].event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        terms = torch.stack(torch.broadcast_tensors(*(each.log_prob(value) for each in self.components)))
        return terms.logsumexp(0) - math.log(len(terms))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = torch.stack([each.sample(torch.Size(sample_shape)) for each in self.components])
        shape = drawn.shape[1 : drawn.dim() - self.event_dim]
        which = torch.randint(len(drawn), shape, device=drawn.device)
        return drawn.take_along_dim(which.reshape(1, *shape, *(1,) * self.event_dim), 0)[0]

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Blend":
        return Blend([each.expand(torch.Size(batch_shape)) for each in self.components])
