"""Estimates of log p(x) with less bias than the importance-weighted bound. For evaluation; they are not bounds."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from ppvae.arguments import Count, RealTensor, checked
from ppvae.batches import Batch, num_rows, tensors
from ppvae.contract import check_shapes
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.scales import refuse_scales
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.supports import refuse_unlike
from ppvae.tracing import trace_pair
from ppvae.weights import weights_of

ELEMENTS_AT_ONCE = 4_000_000


@checked
@dataclass(frozen=True)
class JVI(Objective):
    """The jackknife of order m on IWAE(K): bias `O(K^-(m+1))`, paid for in variance.

    `sum_{j=0}^m c_j (mean of IWAE over all subsets of K - j draws)`, `c_j = (-1)^j (K - j)^m / ((m - j)! j!)`. There
    are `K choose m` subsets: keep m at 1 or 2 for K in the hundreds. It is neither a lower nor an upper bound, and it
    rests on an expansion in 1/K that does not hold where the weights' variance is infinite.

    Source: Nowozin 2018 (ICLR), "Debiasing evidence approximations".

    Args:
        num_particles: K.
        order: m, 0 (IWAE itself) to K - 1.

    Raises:
        ValueError: m < 0 or m >= K.
        ContractError: when called with gradients enabled, or on a guide without a density (Delta).

    Example:
        >>> JVI(num_particles=2, order=1).bound(torch.tensor([[0.0], [-2.0]]))     # 2 log mean w - mean log w
        tensor([-0.1324])
    """

    evaluation_only: ClassVar[bool] = True

    num_particles: Count = 50
    order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.order < self.num_particles:
            raise ValueError(
                f"order: found {self.order} with num_particles={self.num_particles}, expected 0 to "
                f"{self.num_particles - 1}, as the jackknife leaves out that many particles; take more of them"
            )

    def bound(self, log_w: Tensor) -> Tensor:
        """The estimate, in nats, of log weights `[K, B]`."""
        K, m = len(log_w), self.order
        coefficients = [(-1) ** j * (K - j) ** m / (math.factorial(m - j) * math.factorial(j)) for j in range(m + 1)]
        return sum((c * _iwae_without(log_w, j) for j, c in enumerate(coefficients)), start=torch.zeros_like(log_w[0]))

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        refuse_gradients(self)
        value = self.bound(measured_log_weights(self, pair, batch, self.num_particles))
        return value, value.mean()


def _iwae_without(log_w: Tensor, num_left_out: int) -> Tensor:
    """The mean of IWAE over all subsets that leave out `num_left_out` of the K draws, `[B]`."""
    K, B = log_w.shape
    subsets = list(combinations(range(K), num_left_out))
    left_out = torch.tensor(subsets, dtype=torch.long, device=log_w.device).reshape(len(subsets), num_left_out)
    total = torch.zeros_like(log_w[0])
    for some in left_out.split(max(1, ELEMENTS_AT_ONCE // (K * B))):
        kept = torch.ones(len(some), K, dtype=torch.bool, device=log_w.device).scatter_(1, some, False)
        total += torch.where(kept.unsqueeze(-1), log_w, -math.inf).logsumexp(1).sum(0)
    return total / len(left_out) - math.log(K - num_left_out)


@checked
@dataclass(frozen=True)
class SUMO(Objective):
    """Unbiased for log p(x): `IWAE_m + sum_{k=1}^T (IWAE_{m+k} - IWAE_{m+k-1}) / P(T >= k)`, a series cut at random.

    T is drawn for each data point with `P(T >= k) = 1/k` up to k = 80, falling by a tenth per term after that, as in
    the paper. Unbiased where the series' expectation converges; the variance is large, and the poorer the guide, the
    larger. For a guide with heavy-tailed weights it can be infinite: take larger m, or another estimator.

    Source: Luo et al. 2020 (arXiv:2004.00353).

    Args:
        num_particles: m, draws before the first term of the series.

    Raises:
        ContractError: when called with gradients enabled, or on a guide without a density (Delta).

    Example:
        >>> SUMO(num_particles=1).estimate(torch.zeros(3, 1), torch.tensor([2]))
        tensor([0.])
    """

    evaluation_only: ClassVar[bool] = True
    HARMONIC: ClassVar[int] = 80
    DECAY: ClassVar[float] = 0.9

    num_particles: Count = 5

    @checked
    def num_terms(self, u: RealTensor) -> Tensor:
        """T, `[B]`, from uniform numbers in (0, 1]."""
        tail = self.HARMONIC + (u * self.HARMONIC).log().div(math.log(self.DECAY)).floor()
        return torch.where(u * self.HARMONIC > 1, (1 / u).floor(), tail).long()

    @checked
    def estimate(self, log_w: RealTensor, num_terms: RealTensor) -> Tensor:
        """The estimate, in nats, of log weights `[m + max T, B]` and T, `[B]`."""
        if log_w.dim() != 2 or len(log_w) < self.num_particles:
            expected = f"[K, B] with K of {self.num_particles} or more"
            raise ValueError(f"log_w: found shape {list(log_w.shape)}, expected {expected}")
        if num_terms.shape != log_w.shape[1:]:
            raise ValueError(f"num_terms: found shape {list(num_terms.shape)}, expected {list(log_w.shape[1:])}")
        counts = torch.arange(1, len(log_w) + 1, dtype=log_w.dtype, device=log_w.device).unsqueeze(-1)
        iwae = log_w.logcumsumexp(0) - counts.log()
        k = counts[: len(log_w) - self.num_particles]
        survival = torch.where(k < self.HARMONIC, 1 / k, self.DECAY ** (k - self.HARMONIC) / self.HARMONIC)
        series = iwae[self.num_particles - 1 :].diff(dim=0) / survival
        return iwae[self.num_particles - 1] + (series * (k <= num_terms)).sum(0)

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        refuse_gradients(self)
        like = next(iter(tensors(batch).values()))
        num_terms = self.num_terms(1 - torch.rand(num_rows(batch), dtype=torch.float64, device=like.device))
        log_w = measured_log_weights(self, pair, batch, self.num_particles + int(num_terms.max()))
        value = self.estimate(log_w, num_terms)
        return value, value.mean()


def measured_log_weights(objective: Objective, pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    """The pair's log weights, `[K, B]`; refused, by name, where guide and model cannot be compared."""
    joint = trace_pair(pair, batch, num_particles)
    check_shapes(joint)
    refuse_unlike(joint)
    refuse_scales(joint, objective)
    return weights_of(joint).log_w


def refuse_gradients(objective: Objective) -> None:
    """Refuses to estimate with gradients enabled, as these estimates are not for training."""
    if torch.is_grad_enabled():
        raise ContractError(
            f"{objective}: found gradients enabled, expected none, as it is for evaluation only; call it under "
            "torch.no_grad(), and train with IWAE"
        )
