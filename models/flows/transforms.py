"""A base class for invertible maps, and copies of transforms that share no cache."""

from collections.abc import Sequence

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.distributions import Transform

from ppvae.arguments import Natural, checked
from ppvae.internals import fresh_transform


class Bijection(TransformModule):
    """An invertible map x = T(z) from noise to data, whose inverse also computes the log-determinant.

    A subclass implements `push` and `pull`; the rest is what `TransformedDistribution` expects of a transform.

    Args:
        event_dim: number of event dimensions of x.
        noise_dim: number of event dimensions of z; by default that of x.
    """

    bijective = True

    @checked
    def __init__(self, event_dim: Natural, noise_dim: Natural | None = None):
        super().__init__(cache_size=1)
        self.domain = constraints.independent(constraints.real, event_dim if noise_dim is None else noise_dim)
        self.codomain = constraints.independent(constraints.real, event_dim)
        self._log_det: Tensor | None = None

    def push(self, z: Tensor) -> Tensor:
        """`x = T(z)`."""
        raise NotImplementedError

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`z = T^-1(x)`, and `log |det dz/dx|` there, one for each event."""
        raise NotImplementedError

    def _call(self, z: Tensor) -> Tensor:
        self._log_det = None
        return self.push(z)

    def _inverse(self, x: Tensor) -> Tensor:
        z, self._log_det = self.pull(x)
        return z

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`log |det dy/dx|`, in torch's notation: from noise x to data y."""
        if self._log_det is not None and self._cached_x_y[0] is x and self._cached_x_y[1] is y:
            return -self._log_det
        return -self.pull(y)[1]


def fresh(transforms: Sequence[Transform], *, training: bool) -> list[Transform]:
    """Shallow copies: they share parameters, but each has its own cache.

    Pyro's transforms keep their last input and output. If they did so in the pair, the same x after a training step
    would get the cached result of the old parameters, and the pair could not be copied.
    """
    return [fresh_transform(transform, training) for transform in transforms]


@torch.no_grad()
def init_from(transforms: Sequence[Transform], x: Tensor) -> Tensor:
    """Initializes each transform that supports it from the data that reach it; returns the noise behind them."""
    for transform in reversed(transforms):
        if hasattr(transform, "init_from"):
            transform.init_from(x)
        x = fresh_transform(transform, training=False).inv(x)
    return x
