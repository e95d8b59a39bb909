"""A distribution that can be drawn from and has no density: what a generator makes of noise."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

NO_DENSITY = (
    "a generator's samples lie on a surface of no volume, so it gives no density to data; train by AdversarialLoss, "
    "and compare samples (ppvae.compare_samples), or measure NoisyGenerator(gan, sigma), whose samples have noise added"
)


class Implicit(TorchDistribution):
    """`x = G(z)`, `z ~ N(0, I)`: draws, with gradients, and no `log_prob`.

    Args:
        generator: G, `[*, D] -> [*, *event]`.
        num_latents: D.
        event_shape: of x.
        batch_shape: of independent draws.
        like: a tensor of the type, and in the place, that z is to have.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    has_rsample = True  # type: ignore[assignment]

    def __init__(
        self, generator: nn.Module, num_latents: int, event_shape: torch.Size, batch_shape: torch.Size, like: Tensor
    ):
        self.generator, self.num_latents, self.like = generator, num_latents, like
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Implicit":
        return Implicit(self.generator, self.num_latents, self.event_shape, torch.Size(batch_shape), self.like)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.batch_shape, self.num_latents)
        return self.generator(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(f"found no density of what a generator draws, expected one: {NO_DENSITY}")
