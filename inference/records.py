"""Measurements as records: an estimate in nats with its standard error, per data point, and the data-set mean."""

import math
from dataclasses import dataclass

from torch import Tensor


class EvidenceUndefined(ValueError):  # noqa: N818 (it says what is the case)
    """The pair has no evidence to measure, by its own declaration (`pair.evidence_undefined`)."""


@dataclass(frozen=True)
class Mean:
    """A data set's mean, with two error bars that answer two questions.

    Attributes:
        estimate: mean over the data points, in nats per data point.
        std_error: `sd / sqrt(N)` over the data points: how far another sample of data would take the mean. It holds
            the Monte Carlo error already. NaN for one data point.
        monte_carlo_error: `sqrt(sum std_error_n^2) / N`: how far a repetition on this data set would. It says nothing
            of a bias that all data points share.
        num_points: N.
    """

    estimate: float
    std_error: float
    monte_carlo_error: float
    num_points: int

    def __str__(self) -> str:
        return (
            f"{self.estimate:.3f} +- {self.std_error:.3f} nats "
            f"(N = {self.num_points}, Monte Carlo error {self.monte_carlo_error:.3f})"
        )


@dataclass(frozen=True)
class Measurement:
    """A quantity in nats, higher is better, per data point.

    Attributes:
        estimate: `[N]`, float64, on the CPU, as all tensors here.
        std_error: `[N]`, of the Monte Carlo estimate; zero where the quantity is exact, NaN where one draw alone
            was taken.
        num_particles: draws per data point; 0 where the quantity is exact.
        method: how it was measured.
        warning: what a reader must know before trusting it; empty if nothing.

    Example:
        >>> import torch
        >>> bound = Measurement(torch.tensor([-1.0, -3.0]), torch.tensor([0.3, 0.4]), num_particles=10, method="elbo")
        >>> print(bound.mean())
        -2.000 +- 1.000 nats (N = 2, Monte Carlo error 0.250)
    """

    estimate: Tensor
    std_error: Tensor
    num_particles: int
    method: str
    warning: str = ""

    def mean(self) -> Mean:
        """The mean over data points; see `Mean` for its two error bars."""
        num = len(self.estimate)
        spread = self.estimate.std().item() if num > 1 else math.nan
        return Mean(
            estimate=self.estimate.mean().item(),
            std_error=spread / math.sqrt(num),
            monte_carlo_error=self.std_error.square().sum().sqrt().item() / num,
            num_points=num,
        )


@dataclass(frozen=True, kw_only=True)
class Evidence(Measurement):
    """log p(x), or a stochastic lower bound on it, per data point.

    Attributes:
        ess: effective sample size `(sum w)^2 / sum w^2`, `[N]`, between 1 and K; NaN where the evidence is exact.
        khat: Pareto k-hat of the weights' tail, `[N]`; above 0.7 neither estimate nor error bar is to be trusted; NaN
            where the evidence is exact. See `ppvae.inference.pareto.pareto_khat`.
    """

    ess: Tensor
    khat: Tensor


@dataclass(frozen=True)
class Gap:
    """`log p(x) - ELBO = KL(q(z | x) || p(z | x))`: what the guide costs, per data point, and what it is made of.

    Attributes:
        log_evidence: the evidence. Where that is a lower bound, so is the gap.
        elbo: the ELBO.
        gap: their difference; its standard error joins both.
    """

    log_evidence: Evidence
    elbo: Measurement
    gap: Measurement

    def mean(self) -> Mean:
        """The mean of the gap over data points."""
        return self.gap.mean()
