"""The ELBO with a price on the total correlation of q(z), which a critic estimates as a density ratio: FactorVAE."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ppvae.arguments import Count, NonNegative, checked
from ppvae.batches import Batch
from ppvae.inference.objectives.adversarial import frozen
from ppvae.inference.objectives.aggregate import posteriors
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.inference.objectives.weighting import data_weights, mean_over_data, of_whole_batch
from ppvae.pair import Pair
from ppvae.protocols import has_all_of
from ppvae.refusals import ContractError


class WithLatentCritic(Protocol):
    """A pair with a critic of its latents."""

    latent_critic: nn.Module
    """`[*, D] -> [*, 1]`, the logit of being from q(z), and not from the product of its margins."""


@checked
@dataclass(frozen=True)
class FactorVAE(MeanOverDraws):
    """The ELBO; its gradient is that of `ELBO - gamma E_q(z) C(z)`, with C a critic's logit, and that of the critic.

    The critic learns to tell draws z of q(z) from z' of `prod_j q(z_j)`, whose numbers are of different data points, by
    `log sigma(C(z)) + log sigma(-C(z'))`. The best one is the log of the ratio of the two densities, whose mean is the
    total correlation of q(z), and whose gradient at fixed C is that of it, too. Neither gain reaches the other player;
    give the critic a rate of its own (`ParameterGroups({"latent_critic": 2.0})`).

    When it is wrong: the price is what this critic sees. One that lags, or is too simple, sees too little.

    Source: Kim & Mnih 2018 (arXiv:1802.05983), who draw z' from a second batch.

    Args:
        num_particles: K, draws per data point.
        gamma: the price of a nat of total correlation.

    Raises:
        ContractError: when called, on a pair without a critic of its latents, or whose guide is not one site of
            independent Gaussian numbers.

    Example:
        >>> import torch
        >>> from ppvae.models import LatentCritic, LinearVAE
        >>> pair = LatentCritic(LinearVAE(num_features=5, num_latents=2), nn.Linear(2, 1))
        >>> value, surrogate = FactorVAE()(pair, torch.randn(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    gamma: NonNegative = 10.0

    @property
    def unbiased(self) -> None:
        """None: the players climb different gains."""
        return None

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        if not has_all_of(pair, WithLatentCritic):
            raise ContractError(
                f"{type(pair).__name__}: found no `latent_critic`, expected a pair with a critic of its latents; use "
                "ppvae.models.LatentCritic(pair, critic), or BetaTCVAE(), which needs none"
            )
        z = posteriors(pair, batch, self.num_particles).z
        value, surrogate = ELBO(self.num_particles)(pair, batch, step)
        critic: Any = pair.latent_critic
        price = mean_over_data(frozen(critic, z).squeeze(-1))
        of_whole, of_margins = (critic(draws.detach()).squeeze(-1) for draws in (z, shuffled(z)))
        gain = mean_over_data(logsigmoid(of_whole)) + of_whole_batch(logsigmoid(-of_margins).mean())
        return value, surrogate - self.gamma * price + gain


def shuffled(z: Tensor) -> Tensor:
    """Draws of `prod_j q(z_j)`, `[K, B, D]`: each number of another data point, drawn by weight."""
    K, B, D = z.shape
    index = data_weights(z[0, :, 0].detach()).multinomial(K * B * D, replacement=True)
    return z.gather(1, index.view(K, B, D))
