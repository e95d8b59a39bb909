"""The ELBO of spiked bits, along whose draws only what is continuous may be differentiated."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppvae.arguments import Count, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.pair import Pair
from ppvae.splitting import SplitDistribution


@runtime_checkable
class Spiked(Protocol):
    """A distribution whose draws move continuously with its parameters, but whose density has steps."""

    def followed(self) -> Any:
        """The same distribution, with a path to its draws."""
        ...


@checked
@dataclass(frozen=True)
class SpikedELBO(MeanOverDraws):
    """The ELBO, `E_q log p(x | zeta) - KL`, differentiated along the draws of spiked bits, and its KL in closed form.

    A draw of `ppvae.models.SpikedBits` moves continuously with the logits, and so does log p(x | zeta): the gradient
    along the path is unbiased, and has less noise than the score function's. The probability of the bits jumps, so the
    KL must be in closed form. For other pairs it is `ELBO(kl="analytic")`.

    Source: Rolfe 2017 (arXiv:1609.02200).

    Args:
        num_particles: K, draws per data point.

    Raises:
        ContractError: when called: a site whose KL has no closed form.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = SpikedELBO()(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> value.shape
        torch.Size([3])
    """

    num_particles: Count = 1

    @property
    def unbiased(self) -> "SpikedELBO":
        """Itself."""
        return self

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        with _Followed():
            return ELBO(self.num_particles, kl="analytic")(pair, batch)


class _Followed(Messenger):
    """Gives spiked guide sites, which have not been drawn yet, their paths."""

    def _pyro_sample(self, msg: Message) -> None:
        fn = cast(Any, msg["fn"])
        if msg["is_observed"] or msg["done"]:
            return
        if isinstance(fn, Spiked):
            msg["fn"] = fn.followed()
        elif isinstance(fn, SplitDistribution) and isinstance(fn.base_dist, Spiked):
            by_rows = fn.base_dist.followed()
            dim = len(by_rows.batch_shape) - 1 - fn.num_further
            msg["fn"] = SplitDistribution(by_rows, dim, fn.particles)
