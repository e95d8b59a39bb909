"""How much work goes into a ledger: which lines are measured, and how precisely."""

from dataclasses import dataclass, field

from ppvae.inference.evidence.annealed_importance import AIS
from ppvae.inference.ledger.ascent import Ascent
from ppvae.refusals import at_least_one, positive_seconds


@dataclass(frozen=True)
class Effort:
    """What `ppvae.gap` spends on each line.

    Attributes:
        evidence: the method of `ppvae.log_evidence`.
        num_particles: K of its importance weights.
        annealing: settings of its AIS.
        num_samples: S, draws for each ELBO and data point.
        ascent: of the refined guides; None leaves out all lines that need an optimization.
        restarts: further starts of the refined guide.
        richer: whether to fit the full-rank and flow families.
        refit_steps: of a round of training the guide with the model frozen, and of each remedy that is tried; 0 leaves
            these lines out.
        max_seconds: for the evidence of each data set, as for `ppvae.log_evidence`; None for no bound.

    Raises:
        ValueError: a number out of range.
    """

    evidence: str = "best"
    num_particles: int = 5000
    annealing: tuple[AIS, ...] = (AIS(num_temperatures=200), AIS(num_temperatures=400, start="prior"))
    num_samples: int = 500
    ascent: Ascent | None = field(default_factory=Ascent)
    restarts: int = 1
    richer: bool = True
    refit_steps: int = 2000
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_particles", "num_samples"):
            at_least_one(name, getattr(self, name))
        positive_seconds("max_seconds", self.max_seconds)
        for name in ("restarts", "refit_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 or more")


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


def effort_of(effort: "str | Effort") -> Effort:
    """The settings of that name, or the given ones.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(effort, Effort):
        return effort
    if effort not in EFFORTS:
        raise ValueError(f"effort: found {effort!r}, expected one of {sorted(EFFORTS)}, or Effort(...)")
    return EFFORTS[effort]
