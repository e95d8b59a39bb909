"""Adversarial training: a generator and a critic, each with a surrogate of its own in one step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import logsigmoid

from ppvae.arguments import Count, NonNegative, checked
from ppvae.batches import Batch, entries
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.refusals import ContractError


class Adversarial(Protocol):
    """A pair that draws data with gradients, and has a critic of them.

    `isinstance` would not find the critic: from Python 3.12 on it looks past a module's modules and parameters.
    """

    critic: nn.Module
    """`[*, *event] -> [*, 1]`, larger for what looks like data."""

    generate: Callable[..., Tensor]
    """Of `*shape`; returns draws `[*shape, *event]`."""


@checked
@dataclass(frozen=True)
class AdversarialLoss(Objective):
    """Trains a generator G against a critic D, both in each step, each by a gain of its own.

    | kind             | gain of the critic                                | of the generator     | value         |
    |------------------|---------------------------------------------------|----------------------|---------------|
    | "non-saturating" | `log sigma(D(x)) + log sigma(-D(G(z)))`           | `log sigma(D(G(z)))` | -2 JS         |
    | "wasserstein"    | `D(x) - D(G(z)) - penalty (norm(D'(y)) - 1)^2`    | `D(G(z))`            | - Wasserstein |

    The critic's gain does not reach the generator, nor the generator's the critic. Both take their step at once; what
    alternating steps are for, a critic that is ahead, is had by a larger rate (`ParameterGroups({"critic": 4.0})`).
    y lies at random between a data point and a draw.

    The value is no bound on log p(x), which a GAN does not have. It is minus a distance of the two laws as far as this
    critic sees it: twice the Jensen-Shannon divergence, in nats, at most `2 log 2`; or the Wasserstein distance, if the
    critic is 1-Lipschitz. A better critic sees more, so that it may fall while the generator gets better.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661); Gulrajani et al. 2017 (arXiv:1704.00028) for the penalty; Heusel
    et al. 2017 (arXiv:1706.08500) for two rates in place of alternating steps.

    Args:
        num_particles: K, draws per data point.
        kind: "non-saturating" or "wasserstein".
        penalty: the weight of the gradient penalty; 10 in the paper; 0 where the critic has spectral norm.

    Raises:
        ContractError: when called, on a pair without a critic.

    Example:
        >>> from ppvae.models import GAN
        >>> value, surrogate = AdversarialLoss()(GAN.mlp(num_features=5, num_latents=2), torch.randn(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    kind: Literal["non-saturating", "wasserstein"] = "non-saturating"
    penalty: NonNegative = 0.0

    @property
    def unbiased(self) -> None:
        """None: the two players climb two different gains."""
        return None

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        real = observed(pair, batch)
        fake = pair.generate(self.num_particles, len(real))  # type: ignore[operator]
        gain, minus_distance = GAINS[self.kind]
        of_real, of_fake = (scores(pair, x) for x in (real, fake.detach()))
        value = minus_distance(of_real, of_fake).detach()
        if not torch.is_grad_enabled():
            return value, value.mean()
        critic = mean_over_data(gain(of_real)) + gain(-of_fake).mean()
        if self.penalty:
            critic = critic - self.penalty * gradient_penalty(pair, real, fake.detach()[0])
        return value, critic + gain(frozen_scores(pair, fake)).mean()

    def probe(self, pair: Pair, batch: Batch) -> Tensor:
        """The critic's scores: what trains on data that it cannot be given."""
        return scores(pair, observed(pair, batch))


def observed(pair: Pair, batch: Batch) -> Tensor:
    """The data of a pair with an adversary.

    Raises:
        ppvae.ContractError: it has none.
    """
    if not all(hasattr(pair, name) for name in Adversarial.__annotations__):
        raise ContractError(
            f"{type(pair).__name__}: found no `critic` and `generate`, expected a pair with an adversary, such as "
            "ppvae.models.GAN; use ELBO()"
        )
    (x,) = entries(batch).values()
    return x


def scores(pair: Pair, x: Tensor) -> Tensor:
    """The critic's scores, `[*]`."""
    return pair.critic(x).squeeze(-1)  # type: ignore[operator]


def frozen_scores(pair: Pair, x: Tensor) -> Tensor:
    """The critic's scores, `[*]`, whose gradients reach x and not the critic."""
    critic: nn.Module = pair.critic  # type: ignore[assignment]
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    return functional_call(critic, frozen, (x,)).squeeze(-1)


def gradient_penalty(pair: Pair, real: Tensor, fake: Tensor) -> Tensor:
    """`E (norm(D'(y)) - 1)^2` at points y between those of two batches."""
    share = torch.rand(len(real), *(1,) * (real.dim() - 1), dtype=real.dtype, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(scores(pair, between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def _two_jensen_shannon(of_real: Tensor, of_fake: Tensor) -> Tensor:
    return -(logsigmoid(of_real) + logsigmoid(-of_fake).mean(0) + math.log(4))


def _wasserstein(of_real: Tensor, of_fake: Tensor) -> Tensor:
    return of_fake.mean(0) - of_real


def _itself(scores: Tensor) -> Tensor:
    return scores


GAINS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "non-saturating": (logsigmoid, _two_jensen_shannon),
    "wasserstein": (_itself, _wasserstein),
}
"""What a player gains by a score, and minus the distance that scores of data and draws show, `[B]`."""
