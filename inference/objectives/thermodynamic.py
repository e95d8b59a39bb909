"""The thermodynamic variational objective: log p(x) as an integral between guide and posterior."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from ppvae.arguments import checked
from ppvae.inference.objectives.importance_weighted import Weighting, WeightObjective


@checked
@dataclass(frozen=True)
class TVO(WeightObjective):
    """Riemann sums of `log p(x) = integral_0^1 E_{pi_b}[log w] db`, `pi_b` proportional to `q^(1-b) p(x, z)^b`.

    `sum_j (b_{j+1} - b_j) sum_k w~_k(b_j) log w_k`, with `w~(b)` the normalized `w^b`. The integrand rises with b, so
    the left sum is a lower bound, the right sum an upper one - for exact expectations. Those under `pi_b` are estimated
    from reweighted draws, biased by O(1/K) toward the guide: with few draws or a poor guide the upper sum can lie below
    log p(x). With the single interval (0, 1) the lower sum is the ELBO.

    The gradient is that of the sum by covariances, `d E_pi[f] = E_pi[d f] + Cov_pi(d log pi~, f)`, with z fixed: it
    needs no reparameterization and treats discrete and continuous latents alike. It too is biased by O(1/K).

    Source: Masrani et al. 2019 (arXiv:1907.00031).

    Args:
        num_particles: K.
        partition: b_0 = 0 < b_1 < ... < b_J = 1.
        upper: take the right sum. For evaluation: ascending it makes the guide worse.

    Raises:
        ValueError: K < 1, or a partition that does not rise from 0 to 1.

    Example:
        >>> import torch
        >>> log_w = torch.tensor([[0.0], [-2.0]])
        >>> TVO(2, partition=(0, 1)).bound(log_w), TVO(2, partition=(0, 1), upper=True).bound(log_w)
        (tensor([-1.]), tensor([-0.2384]))
    """

    gradients: ClassVar[tuple[str, ...]] = ("score",)
    instead: ClassVar[str] = ", as z is fixed here; for another, use IWAE"

    gradient: str = "score"
    partition: Sequence[float] = (0.0, 0.02, 0.1, 0.3, 1.0)
    upper: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        b = tuple(self.partition)
        object.__setattr__(self, "partition", b)  # hashable, like all settings
        if len(b) < 2 or b[0] != 0 or b[-1] != 1 or not all(low < high for low, high in pairwise(b)):
            raise ValueError(f"partition: found {b}, expected numbers rising from 0 to 1, both included")

    @property
    def unbiased(self) -> None:
        return None

    def _intervals(self) -> list[tuple[float, float]]:
        """`(b, width)`: where the integrand is taken, and the width of the interval."""
        return [(high if self.upper else low, high - low) for low, high in pairwise(self.partition)]

    def bound(self, log_w: Tensor) -> Tensor:
        terms = [width * ((b * log_w).softmax(0) * log_w).sum(0) for b, width in self._intervals()]
        return sum(terms[1:], start=terms[0])

    def weigh(self, log_w: Tensor, scored: bool) -> Weighting:
        model = score = log_w.new_zeros(())
        for b, width in self._intervals():
            weights = width * (b * log_w).softmax(0)
            centered = log_w - (weights * log_w).sum(0) / width
            model = model + weights * (1 + b * centered)
            score = score + weights * ((1 - b) * centered - 1)
        return Weighting(model, score=score)
