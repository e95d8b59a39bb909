"""The ELBO with reconstructions compared in the features of a critic, which is trained with them: VAE/GAN."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ppvae.arguments import NonNegative, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.adversarial import Adversarial, frozen, observed, scores
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.protocols import has_all_of
from ppvae.refusals import ContractError


class FeatureAdversarial(Adversarial, Protocol):
    """A pair with a critic of data, whose first layers are features to compare reconstructions in."""

    @property
    def features(self) -> nn.Module:
        """`[*, *event] -> [*, F]`."""
        ...

    decode: Callable[[Tensor], Tensor]
    """`E[x | z]`, `[*, D] -> [*, *event]`."""


@checked
@dataclass(frozen=True)
class FeatureELBO(ELBO):
    """The ELBO; its gradient is that of an ELBO in features f of a critic D, and of a game against that critic.

    | who      | its gain                                                                                     |
    |----------|----------------------------------------------------------------------------------------------|
    | encoder  | `E log N(f(x); f(x~), I) - KL(q(z given x), p(z))`, with `x~ = E[x given z]`                 |
    | decoder  | `E log N(f(x); f(x~), I) + weight (log sigma(D(x~)) + log sigma(D(G))) / 2`                  |
    | critic   | `log sigma(D(x)) + (log sigma(-D(x~)) + log sigma(-D(G))) / 2`, with draws G from the prior  |

    No gain but its own reaches the critic, and D's scores do not reach the encoder. All take their step at once, each
    at a rate of its own (`ParameterGroups`), as by `AdversarialLoss`. The value is the ELBO of the pair as it is, with
    p(x | z) between data: no one climbs it, and it may fall.

    Source: Larsen et al. 2016 (arXiv:1512.09300), whose gamma is 1 / weight.

    Args:
        num_particles: K, draws per data point.
        weight: of the decoder's gain from the critic's scores, beside that from features.

    Raises:
        ContractError: when called, on a pair without a critic and its features.

    Example:
        >>> from ppvae.models import VAE, VAEGAN
        >>> pair = VAEGAN(VAE.mlp(5, 2, [8], "gaussian"), features=nn.Linear(5, 8), head=nn.Linear(8, 1))
        >>> value, surrogate = FeatureELBO()(pair, torch.randn(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    weight: NonNegative = 1.0

    @property
    def unbiased(self) -> None:  # type: ignore[override]
        """None: the players climb different gains."""
        return None

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{self}: the gradient of its exact value is not the surrogate's")

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        if not has_all_of(pair, FeatureAdversarial):
            raise ContractError(
                f"{type(pair).__name__}: found no `critic`, `features` and `decode`, expected a pair with a critic of "
                "data, such as ppvae.models.VAEGAN; use ELBO()"
            )
        x, adversarial = observed(pair, batch), cast(FeatureAdversarial, pair)
        with torch.no_grad():
            value, _ = super().__call__(pair, batch, step)
        if not torch.is_grad_enabled():
            return value, value.mean()
        with _InFeatures(adversarial.features) as seen:
            _, elbo = super().__call__(pair, batch, step)
        fakes = torch.cat([adversarial.decode(seen.z.detach()), adversarial.generate(self.num_particles, len(x))])
        critic = mean_over_data(logsigmoid(scores(pair, x))) + logsigmoid(-scores(pair, fakes.detach())).mean()
        return value, elbo + critic + self.weight * logsigmoid(frozen(adversarial.critic, fakes)).mean()


class _InFeatures(Messenger):
    """Puts the features of data, and of what is expected of them, in their place; keeps the guide's draw.

    It is outside of all that makes particles, so it sees `[K, B, *event]` in either layout.
    """

    def __init__(self, features: nn.Module):
        super().__init__()
        self._features = features
        self.z: Any = None

    def _pyro_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        if msg["is_observed"] and not site_is_subsample(msg):
            msg["fn"] = dist.Normal(frozen(self._features, fn.mean), 1.0).to_event(1)  # type: ignore[typeddict-item]
            msg["value"] = frozen(self._features, msg["value"])  # type: ignore[arg-type]

    def _pyro_post_sample(self, msg: Message) -> None:
        if self.z is None and not msg["is_observed"] and not site_is_subsample(msg):
            self.z = msg["value"]
