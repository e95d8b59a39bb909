"""Measurements as records: an estimate in nats with its standard error, per data point, and the data-set mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Annotated

import torch
from torch import Tensor

from ppvae.arguments import Natural, PointMask, checked
from ppvae.presentation import present
from ppvae.rules import MOST_INT, Whole

Draws = Annotated[int, Whole(at_least=0, limit=MOST_INT)]


class EvidenceUndefined(ValueError):  # noqa: N818 (the name states a fact)
    """The pair has no evidence to measure, by its own declaration (`pair.evidence_undefined`)."""


PER_POINT = ("estimate", "std_error", "ess", "khat", "acceptance", "divergences", "reliable")
"""The tensors of `Evidence`."""

NOT_REACHED = "not annealed within max_seconds"
"""Among the limits of `Evidence` whose time was spent before all was annealed."""


@checked
@dataclass(frozen=True)
class Mean:
    """A data set's mean, with two error bars that answer two questions.

    Attributes:
        estimate: mean over the data points, in nats per data point.
        std_error: `sd / sqrt(N)` over the data points: how far another sample of data would move the mean. It includes
            the Monte Carlo error. NaN for one data point.
        monte_carlo_error: `sqrt(sum std_error_n^2) / N`: how far a repetition on this data set would move it. It does
            not cover a bias that all data points share.
        num_points: N.
    """

    estimate: float
    std_error: float
    monte_carlo_error: float
    num_points: Natural

    @property
    def error(self) -> float:
        """`std_error`; of one data point, which has none, `monte_carlo_error`."""
        return self.std_error if self.num_points > 1 else self.monte_carlo_error

    def __str__(self) -> str:
        spread = f" +- {self.std_error:.3f}" if self.num_points > 1 else ""
        error = f"Monte Carlo error {self.monte_carlo_error:.3f}"
        return f"{self.estimate:z.3f}{spread} nats (N = {self.num_points}, {error})"


@checked
@dataclass(frozen=True, repr=False)
class Measurement:
    """A quantity in nats, higher is better, per data point.

    Attributes:
        estimate: `[N]`, float64, on the CPU, as all tensors here.
        std_error: `[N]`, of the Monte Carlo estimate; zero where the quantity is exact, NaN where only one draw was
            taken.
        num_particles: draws per data point; 0 where the quantity is exact.
        method: how it was measured.
        warning: what a reader must know before trusting it; empty if nothing.
        kind: for log p(x) and bounds on it, whether they are of a "probability" or of a "density of D numbers" (in
            units of these numbers), or of both together; empty if that is not known, or is no question.

    Example:
        >>> import torch
        >>> bound = Measurement(torch.tensor([-1.0, -3.0]), torch.tensor([0.3, 0.4]), num_particles=10, method="elbo")
        >>> print(bound.mean())
        -2.000 +- 1.000 nats (N = 2, Monte Carlo error 0.250)
    """

    estimate: Tensor
    std_error: Tensor
    num_particles: Draws
    method: str
    warning: str = ""
    kind: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._in_short()}{f'; {self.warning}' if self.warning else ''})"

    def _repr_html_(self) -> str:
        return present("notebook", self)

    def _in_short(self) -> str:
        draws = f", {self.num_particles} particles" if self.num_particles else ""
        return f"{self.method}{draws}: {self.mean() if len(self.estimate) else 'no data points'}"

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


@checked
@dataclass(frozen=True, kw_only=True, repr=False)
class Evidence(Measurement):
    """log p(x), or a stochastic lower bound on it, per data point.

    Attributes:
        ess: effective sample size `(sum w)^2 / sum w^2` of the weights, `[N]`; NaN where the evidence is exact.
        khat: Pareto k-hat of the importance weights' tail, `[N]`; NaN where there are none. Where it differs between
            the data points it is of other draws than the estimate. See `ppvae.inference.evidence.pareto.pareto_khat`.
        acceptance: mean acceptance probability of AIS's transitions, `[N]`; NaN where there are none.
        divergences: how many of these transitions diverged, `[N]`; NaN where there are none.
        reliable: where estimate and standard error can be trusted, `[N]`, as judged by the method that made them.
        limits: the conditions under which the methods that took part call a data point unreliable.
        methods: how each data point was measured.
        reason: why by this method, where there was a choice.
        candidates: the bounds that were measured on the way, by method.
        certificate: for "bdmc", both sides of log p(x) by the same AIS on simulated data.
    """

    ess: Tensor
    khat: Tensor
    acceptance: Tensor
    divergences: Tensor
    reliable: Tensor
    methods: tuple[str, ...]
    limits: tuple[str, ...] = ()
    reason: str = ""
    candidates: Mapping[str, "Evidence"] = field(default_factory=dict)
    certificate: "Sandwich | None" = None

    def __post_init__(self) -> None:
        if self.reliable.dtype != torch.bool:
            raise TypeError(f"reliable: found a tensor of {self.reliable.dtype}, expected torch.bool")
        num_bad = int((~self.reliable).sum())
        seconds = "more seconds, or " if NOT_REACHED in self.limits else ""
        warning = (
            f"unreliable for {num_bad} of {len(self.estimate)} data points ({', or '.join(self.limits)}): their "
            f"estimates are likely too low and their standard errors too small; take {seconds}more particles, or AIS "
            "with more temperatures, or a better guide"
        )
        object.__setattr__(self, "warning", warning if num_bad else "")

    def _in_short(self) -> str:
        return f"{super()._in_short()}, {int(self.reliable.sum())} of {len(self.reliable)} reliable"

    @classmethod
    @checked
    def of(
        cls,
        method: str,
        num_particles: Draws,
        found: Mapping[str, Tensor],
        reliable: Tensor,
        limits: Sequence[str] = (),
    ) -> "Evidence":
        """A record of one method; what was not found is NaN, but for "estimate" and "std_error"."""
        if missing := [name for name in ("estimate", "std_error") if name not in found]:
            raise ValueError(f"found: found no {missing[0]!r} among {sorted(found)}, expected one")
        estimate = found["estimate"]
        unknown = torch.full_like(estimate, math.nan)
        return cls(
            estimate=estimate,
            std_error=found["std_error"],
            num_particles=num_particles,
            method=method,
            ess=found.get("ess", unknown),
            khat=found.get("khat", unknown),
            acceptance=found.get("acceptance", unknown),
            divergences=found.get("divergences", unknown),
            reliable=reliable,
            methods=(method,) * len(estimate),
            limits=tuple(limits),
        )

    @checked
    def rows(self, at: PointMask) -> "Evidence":
        """The record of the data points where the mask `at` is true, without its candidates."""
        rows = {name: getattr(self, name)[at] for name in PER_POINT}
        return replace(self, **rows, methods=tuple(compress(self.methods, at.tolist())), candidates={})

    @checked
    def with_rows(self, at: PointMask, other: "Evidence") -> "Evidence":
        """This record with another's data points where the mask `at` is true; the other has all, or only these."""
        whole = len(other.estimate) == len(at)
        rows = {}
        for name in PER_POINT:
            found = getattr(other, name)
            rows[name] = getattr(self, name).clone()
            rows[name][at] = found[at] if whole else found
        theirs = compress(other.methods, at.tolist()) if whole else iter(other.methods)
        methods = tuple(next(theirs) if taken else own for own, taken in zip(self.methods, at.tolist(), strict=True))
        limits = tuple(dict.fromkeys(self.limits + other.limits))
        return replace(self, **rows, methods=methods, limits=limits)


@checked
@dataclass(frozen=True)
class Sandwich:
    """Both sides of log p(x) on data simulated from the model: how accurate the evaluator is there.

    It certifies the evaluator on the model's own data, and says nothing about another data set.

    Attributes:
        lower: annealed importance sampling's bound, per simulated data point.
        upper: the bound of reverse AIS, from the latents that generated the data.
        width: upper minus lower; the mean error of either is at most the mean of this.
    """

    lower: Measurement
    upper: Measurement
    width: Measurement
