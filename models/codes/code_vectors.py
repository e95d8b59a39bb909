"""Latents that are vectors of a codebook: their distributions, and the way to and from their indices.

A codebook is `[G, K, D]`: K vectors of D numbers, one set for all positions (G = 1), or one for each entry of the last
dimension of positions.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl


def squared_distances(h: Tensor, codes: Tensor) -> Tensor:
    """From vectors `[*, n, D]` to each vector of a codebook `[G, K, D]`: `[*, n, K]`."""
    products = torch.einsum("...gd,gkd->...gk", h, codes)
    return h.square().sum(-1, keepdim=True) - 2 * products + codes.square().sum(-1)


def nearest(h: Tensor, codes: Tensor) -> Tensor:
    """The indices of the nearest codes, `[*, n]`."""
    return squared_distances(h, codes).argmin(-1)


def looked_up(codes: Tensor, index: Tensor) -> Tensor:
    """The vectors at indices `[*, n]`: `[*, n, D]`."""
    return codes[torch.arange(len(codes), device=codes.device), index]


class InCodebook(constraints.Constraint):
    """The support: vectors `[*, n, D]` of a codebook, which all data points share, whatever its first dimension."""

    is_discrete = True

    def __init__(self, vectors: "CodeVectors"):
        self._vectors = vectors

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return self._vectors.event_dim

    def check(self, value: Tensor) -> Tensor:
        return self._vectors.has(value)


class CodeVectors(dist.TorchDistribution):
    """`z = codebook[c]`, `c ~ base`: vectors of a codebook, with the probabilities of their indices.

    Probabilities, not densities: any other vector has none. Of codes that coincide, the first stands for all: with
    probabilities that differ, weights would be wrong, and a `VQVAE` with a learned prior refuses to draw them.

    Args:
        base: a distribution over indices, of event shape `[..., n]`.
        codes: the codebook, `[G, K, D]`, with G of 1 or n.

    Example:
        >>> codes = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
        >>> z = CodeVectors(dist.Categorical(torch.tensor([[0.25, 0.75]])).to_event(1), codes)
        >>> z.event_shape, z.log_prob(torch.tensor([[1.0, 2.0]])).exp(), z.log_prob(torch.tensor([[1.0, 1.0]])).exp()
        (torch.Size([1, 2]), tensor(0.7500), tensor(0.))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]

    def __init__(self, base: Any, codes: Tensor):
        self.base, self.codes = base, codes
        super().__init__(base.batch_shape, torch.Size((*base.event_shape, codes.shape[-1])), validate_args=False)

    @property
    def support(self) -> Any:
        return InCodebook(self)

    def has(self, value: Tensor) -> Tensor:
        """Whether all vectors of values `[*, *event]` are codes, `[*]`."""
        return self._all((value.unsqueeze(-2) == self.codes).all(-1).any(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        same = (value.unsqueeze(-2) == self.codes).all(-1)
        return torch.where(self._all(same.any(-1)), self._log_prob_of(same.byte().argmax(-1)), -torch.inf)

    def _log_prob_of(self, index: Tensor) -> Tensor:
        return self.base.log_prob(index)

    def _all(self, at: Tensor) -> Tensor:
        """Over all positions, the last dimensions."""
        return at.flatten(at.dim() - self.event_dim + 1).all(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return looked_up(self.codes, self.base.sample(torch.Size(sample_shape)))

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "CodeVectors":
        return CodeVectors(self.base.expand(torch.Size(batch_shape)), self.codes)


class NearestCodes(CodeVectors):
    """All probability on the nearest code: `z_p = codebook[argmin_k |h_p - e_k|]`, with a gradient straight through.

    A draw carries two gradients: that of the codes which it consists of, and, unchanged, for h. The latter is not the
    derivative of anything, as z is constant in h where it does not jump.

    Source: van den Oord et al. 2017 (arXiv:1711.00937); straight through: Bengio et al. 2013 (arXiv:1308.3432).

    Args:
        h: what an encoder gives, `[*, n, D]`.
        codes: the codebook, `[G, K, D]`, with G of 1 or n.
        event_dim: of z: 2 for `[n, D]`.

    Example:
        >>> h = torch.tensor([[[0.9, 1.8]]], requires_grad=True)
        >>> z = NearestCodes(h, torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]), event_dim=2).rsample()
        >>> z.detach(), torch.autograd.grad(z.square().sum(), h)[0]
        (tensor([[[1., 2.]]]), tensor([[[2., 4.]]]))
    """

    arg_constraints: ClassVar = {"h": constraints.real}
    has_rsample = True

    def __init__(self, h: Tensor, codes: Tensor, event_dim: int):
        self.h, self.index = h, nearest(h.detach(), codes)
        super().__init__(dist.Delta(self.index, event_dim=event_dim - 1), codes)

    @property
    def mean(self) -> Tensor:
        return looked_up(self.codes, self.index)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.h)

    def _log_prob_of(self, index: Tensor) -> Tensor:
        return torch.where(self._all(index == self.index), self.h.new_zeros(()), -torch.inf)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape).detach()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self.mean + (self.h - self.h.detach())
        return drawn.expand(*sample_shape, *drawn.shape)

    def distortion(self, commitment: float) -> Tensor:
        """`sum_p |sg h_p - e_p|^2 + commitment |h_p - sg e_p|^2`, sg stopping a gradient: `[*]`, in squared units of h.

        The first term draws the codes to what the encoder gives, the second draws that to its codes.
        """
        e = self.mean
        to_encoder, to_codes = (self.h.detach() - e).square(), (self.h - e.detach()).square()
        return (to_encoder + commitment * to_codes).flatten(len(self.batch_shape)).sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "NearestCodes":
        return NearestCodes(self.h.expand(*batch_shape, *self.event_shape), self.codes, self.event_dim)


@register_kl(NearestCodes, CodeVectors)
def _kl(q: NearestCodes, p: CodeVectors) -> Tensor:
    """Minus the log of the probability of the codes, whatever p is."""
    return -p.log_prob(q.mean.detach())
