"""A guide over codes that leaves none out: what importance weights of a VQ-VAE are drawn from."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.models.codes.code_vectors import CodeVectors, squared_distances
from ppvae.models.codes.codebook import Codebook
from ppvae.pair import Pair

TEMPERATURES = (0.05, 0.2, 1.0, 3.0)


class TemperedCodes(Pair):
    """A VQ-VAE's model, with a guide that mixes softened nearest codes at several temperatures, and the prior.

    `q(c | x) = (sum_tau prod_p softmax_k(-|h_p - e_k|^2 / (tau s^2))[c_p] + p(c)) / (T + 1)`, for T temperatures and
    s^2 the variance of the codes, summed over their numbers. A small tau keeps near the nearest codes, a large one
    spreads. No weight exceeds (T + 1) p(x | c), as the prior takes part: codes far from the nearest ones are found,
    if they are as likely under the prior as they are in the posterior.

    Args:
        pair: whose model is taken.
        encoder, codebook, prior: its parts.
        temperatures: tau, T of them.
    """

    def __init__(
        self, pair: Pair, encoder: nn.Module, codebook: Codebook, prior: nn.Module, temperatures: Sequence[float]
    ):
        super().__init__()
        self.pair, self.encoder, self.codebook, self.prior = pair, encoder, codebook, prior
        self.temperatures = tuple(temperatures)
        self.example, self.particles, self.guide_leads = pair.example, pair.particles, pair.guide_leads

    def model(self, x: Tensor) -> None:
        self.pair.model(x)

    def guide(self, x: Tensor) -> None:
        prior, codes = self.prior(), self.codebook.codes
        variance = codes.var(1, correction=0).sum(-1, keepdim=True)
        logits = -squared_distances(self.codebook.scaled(self.encoder(x)), codes) / variance
        num_positions = len(prior.event_shape)
        softened = [dist.Categorical(logits=logits / tau).to_event(num_positions) for tau in self.temperatures]
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", CodeVectors(Blend([*softened, prior]), codes))


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
