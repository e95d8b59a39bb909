"""The ELBO of guides at the nearest codes, with what keeps encoder and codes together."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ppvae.arguments import NonNegative, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.splitting import SplitDistribution, split


@runtime_checkable
class Quantizer(Protocol):
    """A distribution with all probability on the code nearest to what an encoder gives."""

    def distortion(self, commitment: float) -> Tensor:
        """How far apart the two are, over the batch shape; the encoder's part is weighed by `commitment`."""
        ...


@checked
@dataclass(frozen=True)
class VectorQuantizedELBO(ELBO):
    """The ELBO; its gradient is that of `ELBO - sum_p (|sg h_p - e_p|^2 + commitment |h_p - sg e_p|^2)`.

    For guides at the codes e nearest to what an encoder gives, h, as `ppvae.models.VQVAE` has; sg stops a gradient. The
    first term draws the codes to h, the second h to its codes: no part of a bound, so the value stays the ELBO. Beside
    them the codes, as parameters of the model, have the ELBO's own gradient, which the paper leaves out. The encoder's
    goes straight through, and is biased. A codebook of running averages has no gradient, and ignores the first term.

    Source: van den Oord et al. 2017 (arXiv:1711.00937).

    Args:
        num_particles: K, which a pair without other latents needs no more than one of.
        commitment: weight of the encoder's term.

    Raises:
        ValueError: a commitment below zero.
        ContractError: when called, on a pair whose guide has no site at the nearest codes.

    Example:
        >>> import torch
        >>> from ppvae.models import VQVAE
        >>> pair = VQVAE.mlp(num_features=5, num_positions=2, num_codes=3, code_dim=2)
        >>> value, surrogate = VectorQuantizedELBO()(pair, torch.ones(4, 5))
        >>> torch.allclose(value, pair.exact_elbo(torch.ones(4, 5)))
        True
    """

    commitment: NonNegative = 0.25

    @property
    def unbiased(self) -> None:  # type: ignore[override]
        """None: the gradient that goes straight through is not of a bound."""
        return None

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{self}: the gradient of its exact value is not the surrogate's")

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        with _Quantizers() as found:
            value, surrogate = super().__call__(pair, batch, step)
        if not found.sites:
            raise ContractError(
                f"{type(pair).__name__}: found no guide site at the nearest codes, expected one, such as VQVAE has; "
                "use ELBO()"
            )
        for fn in found.sites.values():
            surrogate = surrogate - mean_over_data(_distortion(fn, self.commitment))
        return value, surrogate


class _Quantizers(Messenger):
    """Keeps the distributions of sites that are drawn at the nearest codes."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if isinstance(fn.base_dist if isinstance(fn, SplitDistribution) else fn, Quantizer):
            self.sites.setdefault(str(msg["name"]), fn)  # the first run's, if the pair is inspected after it


def _distortion(fn: Any, commitment: float) -> Tensor:
    """`[K, B]`."""
    if isinstance(fn, SplitDistribution):
        return split(fn.base_dist.distortion(commitment), fn.num_further, fn.particles)
    return fn.distortion(commitment)
