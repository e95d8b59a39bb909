"""How much work goes into a ledger: which lines are measured, and how precisely."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from ppvae.arguments import Count, Natural, Positive, checked
from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.evidence.estimates import why_unbounded
from ppvae.inference.evidence.registry import METHODS, method_named
from ppvae.inference.ledger.ascent import Ascent
from ppvae.pair import Pair
from ppvae.rules import OneOf


@checked
@dataclass(frozen=True)
class Effort:
    """What `ppvae.gap` spends on each line.

    Attributes:
        evidence: the method of `ppvae.log_evidence`.
        num_particles: K of its importance weights.
        annealing: settings of its AIS.
        num_samples: S, draws for each ELBO and data point.
        ascent: of the refined guides; None leaves out all lines that need an optimization.
        restarts: further starts of the refined guide; four times as many where a site of it is discrete.
        richer: whether to fit the full-rank and flow families.
        refit_steps: of a round of training the guide with the model frozen, and of each remedy that is tried; 0 leaves
            these lines out.
        max_seconds: for the evidence of each data set, as for `ppvae.log_evidence`; None for no bound.

    Raises:
        ValueError: a number out of range, or an unknown method.
    """

    evidence: Annotated[str, OneOf(METHODS)] = "best"
    num_particles: Count = 5000
    annealing: tuple[AIS, ...] = (AIS(num_temperatures=200), AIS(num_temperatures=400, start="prior"))
    num_samples: Count = 500
    ascent: Ascent | None = field(default_factory=Ascent)
    restarts: Natural = 1
    richer: bool = True
    refit_steps: Natural = 2000
    max_seconds: Positive | None = None


EFFORTS = {
    "quick": Effort("auto", 1000, (AIS(num_temperatures=100),), 100, None, 0, False, 0),
    "default": Effort(),
    "thorough": Effort(
        num_particles=50_000,
        annealing=(AIS(num_temperatures=1000), AIS(num_temperatures=4000, start="prior")),
        num_samples=2000,
        ascent=Ascent(num_particles=32, max_steps=4000, reductions=4, tolerance=0.001),
        restarts=4,
        refit_steps=20_000,
    ),
}

MAX_SECONDS = {"quick": 60.0}
"""Of the evidence of each data set, where that can be kept."""


def effort_of(effort: "str | Effort", pair: Pair) -> Effort:
    """The settings of that name for the pair, or the given ones.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(effort, Effort):
        return effort
    if effort not in EFFORTS:
        raise ValueError(f"effort: found {effort!r}, expected one of {sorted(EFFORTS)}, or Effort(...)")
    named = EFFORTS[effort]
    unbounded = why_unbounded(pair, method_named(named.evidence), named.annealing)
    return named if unbounded else replace(named, max_seconds=MAX_SECONDS.get(effort))
