"""Both sides of log p(x) on real data: a lower bound, and an approximate upper one from long runs at the posterior."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from ppvae.arguments import Distributed, Seed, checked
from ppvae.conversion import to_pair
from ppvae.inference.evidence.ais import AnnealedImportanceSampling
from ppvae.inference.evidence.annealed_importance import AIS, Sampler, run_chains
from ppvae.inference.evidence.few_weights import MOST_STD_ERROR, std_error
from ppvae.inference.evidence.larger_bound import ROUNDING_ERROR
from ppvae.inference.evidence.long_runs import KINDS, long_run
from ppvae.inference.runtime.differences import less
from ppvae.inference.runtime.measuring import kind_of, measuring
from ppvae.inference.runtime.records import Evidence, Mean, Measurement, Sandwich
from ppvae.inference.runtime.sharing import measurement
from ppvae.pair import Pair
from ppvae.simulation import simulate
from ppvae.wording import figures

MOST_R_HAT, LEAST_ESS = 1.05, 400.0
"""Where long runs agree. Vehtari et al. 2021 ask for an ESS of 400. Of 32 half chains with no more, R-hat is 1.04 by
chance, so that their cut for four chains, 1.01, would refuse what is right."""

CROSSED = 2.5
"""Joint standard errors by which the sides may be the wrong way round."""

SHORT = 5.0
"""Joint standard errors beyond which, on simulated data, long runs have missed a part of the posterior."""


@checked
@dataclass(frozen=True, repr=False)
class TwoSides:
    """Both sides of log p(x) on real data, the upper one approximate, and how the same fares on simulated data.

    Attributes:
        lower: AIS's stochastic lower bound, per data point.
        upper: reverse AIS's from the long runs' last draws: an upper bound only as far as these are the posterior's.
            Its `warning` says so, always.
        width: upper minus lower.
        r_hat: the largest R-hat over the latents and log p(x, z), of chains from all kinds of starts, `[N]`.
        ess: the smallest effective sample size of these, `[N]`.
        reliable: where nothing speaks against the upper bound, `[N]`.
        simulated: both sides on data simulated from the model, the upper one from exact draws of the posterior.
        shift: on the same simulated data, the approximate upper bound minus the one from exact draws. Below zero, long
            runs have missed a part of the posterior there.
    """

    lower: Evidence
    upper: Measurement
    width: Measurement
    r_hat: Tensor
    ess: Tensor
    reliable: Tensor
    simulated: Sandwich
    shift: Measurement

    def summary(self) -> pd.DataFrame:
        """The table: for each bound nats per data point, the standard error over data points, the Monte Carlo error."""
        lines = {
            "lower bound": self.lower,
            "upper bound, approximate": self.upper,
            "width": self.width,
            "simulated data: lower bound": self.simulated.lower,
            "simulated data: upper bound": self.simulated.upper,
            "simulated data: width": self.simulated.width,
            "simulated data: approximate - exact upper bound": self.shift,
        }
        means: dict[str, Mean] = {name: line.mean() for name, line in lines.items()}
        columns = ("estimate", "std_error", "monte_carlo_error")
        table = {column: [getattr(mean, column) for mean in means.values()] for column in columns}
        return pd.DataFrame(table, index=list(means)).rename(columns={"estimate": "nats"})

    def __repr__(self) -> str:
        lower, upper = self.lower.mean().estimate, self.upper.mean().estimate
        reliable = f"{int(self.reliable.sum())} of {len(self.reliable)} reliable"
        return f"TwoSides(log p(x) between {lower:z.3f} and, approximately, {upper:z.3f} nats; {reliable})"

    def __str__(self) -> str:
        return f"{figures(self.summary())}\n{self.upper.warning}."


@checked
@measurement
def two_sides(
    pair: Pair,
    data: Any,
    annealing: AIS | None = None,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> TwoSides:
    """A lower and an approximate upper bound on log p(x) of real data, per data point.

    AIS gives the lower one. Reverse AIS from an exact draw of the posterior would give an upper one,
    `-log mean_k prod_t p_(t-1)(z_t) / p_t(z_t)`; real data have no such draw, so long HMC runs at the posterior take
    its place. The same is done on as many data points simulated from the model, where an exact draw is known: there
    `shift` says what the approximation costs.

    When it is wrong: the runs start from last states of AIS, the guide and the prior, and R-hat tells where they
    disagree. A mode that no start reaches leaves no trace: the sides may agree, and both be too low. Where modes have
    been found, but not in their shares, the upper bound may be on either side of log p(x).

    Source: Grosse, Ancha & Roy 2016 (arXiv:1606.02275); R-hat and ESS: Vehtari et al. 2021 (arXiv:1903.08008), by
    ArviZ.

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict).
        annealing: settings of AIS, with at least six chains; None for `AIS()`. A long run takes twice its temperatures.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ppvae.ContractError: the guide has discrete sites, there are no continuous latents, or the model cannot be
            simulated from.
        ValueError: fewer than six chains, or data that are not finite or outside the likelihood's support (the row is
            named).

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair = LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> x = pair.sample(20)
        >>> found = two_sides(pair, x, AIS(num_temperatures=20), seed=0)
        >>> exact, low, high = pair.log_prob(x).mean().item(), found.lower.mean(), found.upper.mean()
        >>> low.estimate - 4 * low.monte_carlo_error < exact < high.estimate + 4 * high.monte_carlo_error
        True
    """
    annealing = annealing or AIS()
    if annealing.num_chains < 2 * KINDS:
        raise ValueError(
            f"annealing: found num_chains={annealing.num_chains}, expected at least {2 * KINDS}, two from each kind of "
            "start, so that they can be compared"
        )
    ais, num = AnnealedImportanceSampling(annealing.start), annealing.num_temperatures
    run = partial(run_chains, pair, progress=progress, result="both sides")
    with measuring(pair, data, seed) as batch:
        found = run(batch, annealing, _approximate, more_steps=3 * num)
        simulated, latents = simulate(pair, to_pair(batch, pair))
        both, without_file = partial(_both, latents), replace(annealing, checkpoint=None)  # that is for the real data
        on_own = run(simulated, without_file, both, more_steps=4 * num + annealing.num_warm_up)
        kind = kind_of(pair, batch)
    lower = replace(ais.record_of(annealing, found["forward"], found), kind=kind)
    upper = replace(_upper(annealing, found["approximate"]), kind=kind)
    width = less("upper - lower", upper, lower)
    reliable = (
        (found["r_hat"] <= MOST_R_HAT)
        & (found["ess"] >= LEAST_ESS)
        & (upper.std_error <= MOST_STD_ERROR)
        & (width.estimate >= -CROSSED * width.std_error.clamp(min=ROUNDING_ERROR))
    )
    own_lower, own_upper = ais.record_of(annealing, on_own["forward"], on_own), _upper(annealing, on_own["exact"])
    shift = less("approximate - exact", _upper(annealing, on_own["approximate"]), own_upper)
    return TwoSides(
        lower=lower,
        upper=replace(upper, warning=f"{_limits(reliable)}{_of_simulated(shift)}"),
        width=width,
        r_hat=found["r_hat"],
        ess=found["ess"],
        reliable=reliable,
        simulated=Sandwich(own_lower, own_upper, less("upper - lower", own_upper, own_lower)),
        shift=shift,
    )


def _approximate(sampler: Sampler, index: Tensor) -> dict[str, Tensor]:
    """AIS, and reverse AIS from where long runs end: log weights `[B, K]`; and how these runs agree."""
    annealed, log_weight = sampler.forward()
    found = {"forward": log_weight.T, "acceptance": sampler.acceptance, "divergences": sampler.divergences}
    run = long_run(sampler, annealed, log_weight)
    return found | {"approximate": sampler.backward(run.state)[1].T, "r_hat": run.r_hat, "ess": run.ess}


def _both(latents: Mapping[str, Tensor], sampler: Sampler, index: Tensor) -> dict[str, Tensor]:
    """The same, and reverse AIS from the latents that generated the data, by site `[N, *event]`."""
    found = _approximate(sampler, index)
    posterior = sampler.posterior({name: z[index][None] for name, z in latents.items()})
    return found | {"exact": sampler.backward(posterior)[1].T}


def _upper(settings: AIS, log_weight: Tensor) -> Measurement:
    """The upper bound by log weights of reverse AIS, `[N, K]`."""
    num = log_weight.shape[1]
    estimate = math.log(num) - log_weight.logsumexp(1)
    return Measurement(estimate, std_error(log_weight), num, f"reverse {settings.name}")


def _limits(reliable: Tensor) -> str:
    """What the upper bound's record always says."""
    said = (
        "approximate: an upper bound only as far as long runs have reached all of the posterior; a mode that none of "
        "their starts reaches leaves no trace, and both sides are too low then"
    )
    if reliable.all():
        return said
    return (
        f"{said}. It is not to be trusted for {int((~reliable).sum())} of {len(reliable)} data points (R-hat > "
        f"{MOST_R_HAT}, ESS < {LEAST_ESS:.0f}, standard error > {MOST_STD_ERROR} nats, or a lower bound above it): "
        "take more temperatures or chains"
    )


def _of_simulated(shift: Measurement) -> str:
    """What simulated data say against long runs; empty if nothing."""
    short = shift.estimate < -SHORT * shift.std_error.clamp(min=ROUNDING_ERROR)
    if not short.any():
        return ""
    return (
        f". On {int(short.sum())} of {len(short)} simulated data points it is too low, as long runs have missed a part "
        "of the posterior there; they may have done so on yours too"
    )
