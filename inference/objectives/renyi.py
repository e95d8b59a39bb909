"""Bounds from other divergences than KL(q || p): Renyi's family, and chi-square."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ppvae.arguments import checked
from ppvae.inference.objectives.importance_weighted import Weighting, WeightObjective, log_mean_exp


@checked
@dataclass(frozen=True)
class Renyi(WeightObjective):
    """Renyi's variational bound, `log[(1/K) sum_k w_k^(1 - alpha)] / (1 - alpha)`.

    alpha = 1 is the ELBO, alpha = 0 IWAE(K), and for 0 < alpha < 1 it is between the two in expectation; below 0 it can
    exceed log p(x). Small alpha lets the guide cover the posterior's mass, large alpha makes it seek a mode.

    Source: Li & Turner 2016 (arXiv:1602.02311).

    Args:
        num_particles: K.
        gradient: "reparameterized" or "score"; "stl" for alpha = 1 only.
        alpha: the order.

    Raises:
        ValueError: gradient "stl" with alpha != 1, or "dreg".

    Example:
        >>> import torch
        >>> log_w = torch.tensor([[0.0], [-2.0]])
        >>> Renyi(num_particles=2, alpha=1.0).bound(log_w)
        tensor([-1.])
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha: found {self.alpha}, expected a finite number; the limit at -inf is VRMax")
        if self.gradient == "dreg" or (self.gradient == "stl" and self.alpha != 1):
            raise ValueError(
                f"gradient: found {self.gradient!r} with alpha={self.alpha}, expected 'reparameterized' or 'score', as "
                "the score that it leaves out has mean zero for alpha=1 only; use ELBO(gradient='stl') or "
                "IWAE(gradient='dreg')"
            )

    def bound(self, log_w: Tensor) -> Tensor:
        """Near alpha = 1, `log mean w^power` is so small that a logsumexp would lose it: log1p does not."""
        power = 1 - self.alpha
        if not power:
            return log_w.mean(0)
        scaled = power * log_w
        top = scaled.amax(0).detach().nan_to_num(neginf=0.0)
        below = (scaled - top).expm1().mean(0)  # in (-1, 0]
        close = (top + below.clamp(min=-0.5).log1p()) / power
        return torch.where(below < -0.5, log_mean_exp(scaled) / power, close)


@checked
@dataclass(frozen=True)
class VRMax(WeightObjective):
    """`max_k log w_k`: Renyi's bound for alpha -> -infinity on K draws, which trains on the best draw alone.

    Its expectation rises without limit in K where the weights are unbounded, past log p(x) too: it is not a bound.

    Source: Li & Turner 2016 (arXiv:1602.02311).

    Args:
        num_particles: K.
        gradient: "reparameterized" or "score".

    Example:
        >>> import torch
        >>> VRMax(num_particles=2).bound(torch.tensor([[0.0], [-2.0]]))
        tensor([0.])
    """

    gradients: ClassVar[tuple[str, ...]] = ("reparameterized", "score")
    instead: ClassVar[str] = ", as the score of a maximum does not have mean zero; or use IWAE"

    def bound(self, log_w: Tensor) -> Tensor:
        return log_w.amax(0)


@checked
@dataclass(frozen=True)
class CUBO(WeightObjective):
    """The chi upper bound's Monte Carlo value, `(1/n) log (1/K) sum_k w_k^n`, for guides that cover the posterior.

    For K -> infinity an upper bound on log p(x): for n = 2, `log p(x) + log(1 + chi^2(posterior || q)) / 2`. With a
    finite K the value is biased *low*, badly so where the weights' tail is heavy: never take it for an upper bound.

    The guide descends `exp(n CUBO) = (1/K) sum_k w_k^n`, in the form that fixes z, `(1 - n) w_k^n d log q(z_k)`,
    divided by the mean of `w^n` for scale (and so biased by O(1/K)): it is drawn to where the weights are large. An
    upper bound gives the model nothing to climb, so the model ascends IWAE(K).

    Source: Dieng et al. 2017 (arXiv:1611.00328).

    Args:
        num_particles: K, at least 2.
        gradient: "score", the only one.
        n: the order, above 1.

    Raises:
        ValueError: n <= 1, or another gradient.

    Example:
        >>> import torch
        >>> CUBO(num_particles=2).bound(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """

    gradients: ClassVar[tuple[str, ...]] = ("score",)
    instead: ClassVar[str] = ", as z is fixed here; for another, use IWAE"

    gradient: str = "score"
    n: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.n < math.inf:
            raise ValueError(f"n: found {self.n}, expected a number above 1")

    @property
    def unbiased(self) -> None:
        return None

    def bound(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(self.n * log_w) / self.n

    def weigh(self, log_w: Tensor, scored: bool) -> Weighting:
        return Weighting(log_w.softmax(0), score=(self.n - 1) * (self.n * log_w).softmax(0))
