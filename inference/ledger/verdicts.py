"""The ledger in words: which cause weighs most, what experiment says so, what to try, and what cannot be known."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.inference.ledger.lines import Ledger
from ppvae.inference.runtime.records import Measurement

LEAST = 0.05
"""Nats below which nothing is called a cause."""

SIGNIFICANT = 2.0
"""Standard errors from zero, or from one another, within which lines are not told apart."""

MISSED = 0.1
"""Nats that chains from the prior must find more than all else, on average, for modes to be called missed."""


@dataclass(frozen=True)
class Cause:
    """Something that keeps the ELBO low.

    Attributes:
        name: "correlation", "shape", "modes", "capacity", "training", "generalization", "amortization", "family",
            "likelihood scale" or "collapse".
        nats: what it costs, in nats per data point; NaN where that cannot be known.
        std_error: of that, over data points.
        says: the experiment, and what it found.
        remedy: what to try.
        per_point: what it costs each data point, `[N]`, where that is known.
    """

    name: str
    nats: float
    std_error: float
    says: str
    remedy: str
    per_point: Tensor | None = None


def causes(report: Ledger) -> list[Cause]:
    """The causes that are significant, the one that costs most first; all latents collapsed comes before everything."""
    found = [*_of_family(report), *_of_amortization(report), *_of_likelihood(report)]
    ranked = sorted(found, key=lambda cause: cause.nats, reverse=True)
    return [*_of_collapse(report), *ranked]


def verdict(report: Ledger) -> str:
    """A few sentences on what keeps the ELBO low.

    Causes closer than two standard errors of their difference are not ranked, and where the evidence is unreliable that
    is said first. Nothing is said of whether another model would have more evidence.
    """
    evidence, elbo, gap = report.log_evidence.mean(), report.elbo.mean(), report.gap.mean()
    said = [
        f"The ELBO is {elbo.estimate:.2f} nats, {gap.estimate:.2f} +- {gap.std_error:.2f} below log p(x), "
        f"{evidence.estimate:.2f}, which is {_how(report)}."
    ]
    if report.amortization_undefined:
        said.append(
            f"Amortization is undefined, not zero: {report.amortization_undefined}. The whole gap counts as that "
            "of its family."
        )
    if not report.log_evidence.reliable.all():
        num_bad = int((~report.log_evidence.reliable).sum())
        said.append(
            f"For {num_bad} of {len(report.elbo.estimate)} data points that is not to be trusted, and likely too low: "
            "the gap and the approximation gap may be larger. Chains of more temperatures would tell."
        )
    found = causes(report)
    seen = gap.estimate >= max(LEAST, SIGNIFICANT * gap.std_error)
    if not (seen or any(cause.per_point is not None for cause in found)):  # a part may be surer than the whole
        said.append("The guide is not what keeps it low: no gap is seen that its error does not explain.")
    if not found:
        return "\n".join([*said, "No cause was found.", _more_time(report)]) + _unmeasured(report)
    first, *others = found
    if others and _tied(first, others[0]):
        said.append(
            f"Two causes cost about as much, and cannot be ranked: {first.name} ({_nats(first)}) and {others[0].name} "
            f"({_nats(others[0])})."
        )
    else:
        said.append(f"The main cause is {_title(first)}.")
    said += [f"- {cause.name}: {cause.says} {cause.remedy}" for cause in found]
    return "\n".join([*said, _more_time(report)]) + _unmeasured(report)


def _how(report: Ledger) -> str:
    methods = sorted({name for each in report.log_evidence.methods for name in each.split(", ")})
    return "exact" if methods == ["exact"] else f"a lower bound, by {', '.join(methods)}"


def _more_time(report: Ledger) -> str:
    """What endless draws would change: the error's Monte Carlo part, and half the variance that a logarithm loses."""
    gap, evidence = report.gap.mean(), report.log_evidence
    noise = gap.monte_carlo_error
    error = gap.std_error if gap.num_points > 1 else noise
    left = math.sqrt(max(0.0, error**2 - noise**2))
    said = f"More time for measuring would take the error of the gap from {error:.3f} to {left:.3f}"
    if not evidence.reliable.all():
        return f"{said}; how far up it would take log p(x) cannot be known from here."
    raised = evidence.std_error.square().mean().item() / 2
    return f"{said}, and log p(x) up by {raised:.3f} nats."


def _title(cause: Cause) -> str:
    return f"{cause.name} ({_nats(cause)})"


def _nats(cause: Cause) -> str:
    return "nats unknown" if math.isnan(cause.nats) else f"{cause.nats:.2f} +- {cause.std_error:.2f} nats"


def _tied(first: Cause, second: Cause) -> bool:
    if math.isnan(first.nats):
        return False
    if first.per_point is not None and second.per_point is not None and len(first.per_point) > 1:
        difference = first.per_point - second.per_point
        return bool(difference.mean() < SIGNIFICANT * difference.std() / len(difference) ** 0.5)
    return first.nats - second.nats < SIGNIFICANT * math.hypot(first.std_error, second.std_error)


def _unmeasured(report: Ledger) -> str:
    missing = [f"{name} ({why})" for name, why in report.notes.items()]
    return f"\nTo note: {'; '.join(missing)}." if missing else ""


def _cause(name: str, line: Measurement | None, says: str, remedy: str) -> list[Cause]:
    """The cause that a line stands for, if it is significant."""
    if line is None:
        return []
    mean = line.mean()
    error = mean.monte_carlo_error if math.isnan(mean.std_error) else mean.std_error
    if mean.estimate < max(LEAST, SIGNIFICANT * error):
        return []
    return [Cause(name, mean.estimate, error, says.format(mean.estimate), remedy, line.estimate)]


def _of_family(report: Ledger) -> list[Cause]:
    family = "The best guides of the same family, one for each data point, still fall {:.2f} nats short."
    if report.elbo_full_rank is None and report.amortization_undefined:
        fixed = "The guide, which cannot learn, is {:.2f} nats from the posterior."
        remedy = "Let the model come nearer (train it longer; give a diffusion more steps), or let the guide learn."
        return _cause("family", report.approximation_gap, fixed, remedy)
    if report.elbo_full_rank is None:
        return _cause("family", report.approximation_gap, family, "Try a richer posterior.")
    found = _cause(
        "correlation",
        report.correlation_gap,
        "A full covariance for each data point gains {:.2f} nats over the best guides of the family.",
        "Try a guide with correlated latents (full covariance, or a flow).",
    )
    found += _cause(
        "shape",
        report.shape_gap,
        "A flow for each data point gains {:.2f} nats over the best full covariances.",
        "Try a flow as posterior.",
    )
    if modes := _of_modes(report):
        return found + modes
    return found + _cause(
        "remaining shape",
        report.remaining_gap,
        "Not even a flow for each data point reaches log p(x): {:.2f} nats remain, of shapes it lacks or of its fit.",
        "Try a posterior of several components, or more effort.",
    )


def _of_modes(report: Ledger) -> list[Cause]:
    """Whether chains from the prior find what the guide, and chains from it, do not."""
    candidates = report.log_evidence.candidates
    if "ais from prior" not in candidates or len(candidates) < 2:
        return []
    from_prior = candidates["ais from prior"]
    others = torch.stack([record.estimate for name, record in candidates.items() if name != "ais from prior"])
    more = Measurement(
        from_prior.estimate - others.amax(0), from_prior.std_error, from_prior.num_particles, "beyond the guide"
    )
    found = _cause(
        "modes",
        more,
        "Chains from the prior find {:.2f} nats that neither importance weights nor chains from the guide do: it "
        "leaves out modes of the posterior.",
        "Try a posterior of several components, or train with a bound that covers (IWAE, RWS).",
    )
    return [cause for cause in found if cause.nats > MISSED]


def _of_amortization(report: Ledger) -> list[Cause]:
    own = "Each data point's own best guide of the same family gains {:.2f} nats over the amortized one."
    if report.elbo_refitted is None:
        remedy = "Train the guide longer, or widen its networks; pass train= to tell which."
        return _cause("amortization", report.amortization_gap, own, remedy)
    found = _cause(
        "training",
        report.training_gap,
        "More training of the guide, with the model frozen, gains {:.2f} nats.",
        "Train longer, with a decaying learning rate, or the guide more often than the model.",
    )
    beyond = _cause(
        "capacity",
        report.capacity_gap,
        "Each data point's own best guide gains {:.2f} nats more than a guide that was trained further: the networks "
        "cannot give it.",
        "Widen or deepen the encoder, or refine its output for each data point.",
    )
    if beyond and report.train is not None and report.train.amortization_gap is not None:
        seen, held_out = report.train.amortization_gap.mean(), beyond[0].nats
        if seen.estimate < held_out / 2:
            says = (
                f"Each data point's own best guide gains {held_out:.2f} nats on held-out data, and {seen.estimate:.2f} "
                "on training data: the encoder does not generalize."
            )
            remedy = "Regularize the encoder, or train it on samples of the model too."
            beyond = [Cause("generalization", held_out, beyond[0].std_error, says, remedy, beyond[0].per_point)]
    return found + beyond


def _of_likelihood(report: Ledger) -> list[Cause]:
    found = []
    for site, scale in report.likelihood.items():
        if scale.gain > LEAST:
            wide = "wide" if scale.factor < 1 else "narrow"
            says = (
                f"The likelihood of '{site}' is too {wide}: its standard deviation times {scale.factor:.2f} would gain "
                f"{scale.gain:.2f} nats with the guide as it is."
            )
            found.append(Cause("likelihood scale", scale.gain, 0.0, says, "Learn sigma, or set it so."))
    return found


def _of_collapse(report: Ledger) -> list[Cause]:
    collapsed = [name for name, usage in report.latents.items() if usage.collapsed]
    if not collapsed or report.amortization_undefined:  # what is fixed does not collapse: a diffusion ends in noise
        return []
    every = len(collapsed) == len(report.latents)
    says = (
        f"{'All latents have' if every else 'A site has'} collapsed ({', '.join(collapsed)}): the guide there is the "
        "prior, and tells nothing of the data."
    )
    remedy = "Try free bits, a warm-up of the KL, or a weaker decoder. What that would gain cannot be known from here."
    return [Cause("collapse", math.nan, math.nan, says, remedy)]
