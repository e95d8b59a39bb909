"""The ELBO with a price on dependence between the dimensions of q(z): beta-TCVAE and DIP-VAE."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ppvae.arguments import Count, NonNegative, checked
from ppvae.batches import Batch, num_rows
from ppvae.inference.objectives.aggregate import log_aggregate, posteriors, stratified_shares
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.inference.objectives.weighting import data_weights, mean_over_data, of_whole_batch
from ppvae.pair import Pair


@checked
@dataclass(frozen=True)
class BetaTCVAE(MeanOverDraws):
    """The ELBO; its gradient is that of `ELBO - (beta - 1) TC`, with TC the total correlation of q(z).

    `TC = KL(q(z) || prod_j q(z_j))`, with `q(z) = mean_n q(z | x_n)`, is what the dimensions of the aggregate posterior
    say about each other: a third of the KL, beside the mutual information of data and latents, and the KL of each
    dimension from the prior (`ppvae.kl_split`). With `beta = 1` this is the ELBO; beta-VAE weighs all three.

    When it is wrong: q(z) is estimated from the minibatch, so TC is biased, the more so the smaller the batch.

    Source: Chen et al. 2018 (arXiv:1802.04942).

    Args:
        num_particles: K, draws per data point.
        beta: the weight of the total correlation.
        num_data: N, the number of data points of which a batch is drawn; None takes each batch for all there are.

    Raises:
        ContractError: when called, on a pair whose guide is not one site of independent Gaussian numbers.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = BetaTCVAE()(LinearVAE(num_features=5, num_latents=2), torch.randn(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    beta: NonNegative = 6.0
    num_data: Count | None = None

    @property
    def unbiased(self) -> None:
        """None: the total correlation of a minibatch is biased."""
        return None

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        found = posteriors(pair, batch, self.num_particles)
        value, surrogate = ELBO(self.num_particles)(pair, batch, step)
        weights = data_weights(found.loc[:, 0])
        shares = stratified_shares(weights, max(self.num_data or 0, num_rows(batch)))
        log_q, log_margins = log_aggregate(found, shares)
        return value, surrogate - (self.beta - 1) * mean_over_data(log_q - log_margins.sum(-1))


@checked
@dataclass(frozen=True)
class DIPVAE(MeanOverDraws):
    """The ELBO; its gradient is that of the ELBO less a price on the covariance C of q(z), or of its means.

    `off_diagonal sum_{i != j} C_ij^2 + diagonal sum_i (C_ii - 1)^2`, with `C = Cov_x E[z | x]` (kind "I") or the
    covariance of all of q(z), `Cov_x E[z | x] + E_x Var[z | x]` (kind "II").

    When it is wrong: it sees second moments alone; C is that of the minibatch.

    Source: Kumar et al. 2018 (arXiv:1711.00848).

    Args:
        num_particles: K, draws per data point, for the ELBO.
        off_diagonal: the price of covariances.
        diagonal: the price of variances that are not one.
        kind: "I" or "II".

    Raises:
        ContractError: when called, on a pair whose guide is not one site of independent Gaussian numbers.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = DIPVAE()(LinearVAE(num_features=5, num_latents=2), torch.randn(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    off_diagonal: NonNegative = 10.0
    diagonal: NonNegative = 10.0
    kind: Literal["I", "II"] = "II"

    @property
    def unbiased(self) -> None:
        """None: the covariance of a minibatch is biased."""
        return None

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        found = posteriors(pair, batch, 1)
        value, surrogate = ELBO(self.num_particles)(pair, batch, step)
        weights = data_weights(found.loc[:, 0])
        centered = found.loc - weights @ found.loc
        covariance = (weights * centered.T) @ centered
        if self.kind == "II":
            covariance = covariance + (weights @ found.scale.square()).diag()
        variances = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variances.square().sum()
        price = self.off_diagonal * off_diagonal + self.diagonal * (variances - 1).square().sum()
        return value, surrogate - of_whole_batch(price)
