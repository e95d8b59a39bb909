"""The ledger in words: which cause weighs most, which experiment says so, what to try, and what cannot be known."""

import math

from ppvae.inference.evidence.registry import METHODS
from ppvae.inference.ledger.cause import LEAST, SIGNIFICANT, Cause, is_significant
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.registry import LINES, finest, values
from ppvae.inference.runtime.records import NOT_REACHED, Mean

HARDLY = 0.995
"""The share of an error from which what is left of it is hardly less."""

LEAST_SHOWN = 0.0005
"""Nats below which three decimals show none."""

NOT_LOOKED_FOR = 'No cause was looked for: that takes more effort than this; effort="default" looks.'


def causes(report: Measured) -> list[Cause]:
    """The significant causes, the costliest first; what cannot be told in nats comes last.

    A line whose parts were measured gives way to their causes.
    """
    found = [cause for name, line in finest(report).items() for cause in LINES[name].causes(report, line)]
    ranked = sorted(
        [*found, *_of_likelihood(report), *_of_overfitting(report)], key=lambda cause: cause.nats, reverse=True
    )
    return [*ranked, *_of_collapse(report)]


def verdict(report: Measured) -> str:
    """A few sentences on what keeps the ELBO low.

    A line is a cause if it exceeds two of its Monte Carlo errors, in however few data points; the likelihood's scale, a
    parameter that the data set, if it exceeds two of its errors over data, and overfitting if it exceeds three. Causes
    within two Monte Carlo errors of each other are not ranked, and where the evidence is unreliable, or the ELBO has
    heavy tails, that is said first. It does not say whether another model would have more evidence.
    """
    evidence, elbo, gap = report.log_evidence.mean(), report.elbo.mean(), values(report)["gap"].mean()
    said = [
        *_heavy_tails(report),
        f"The ELBO is {elbo.estimate:z.2f} nats, {gap.estimate:z.2f} +- {gap.error:.2f} below log p(x), "
        f"{evidence.estimate:z.2f}, which is {_how(report)}.",
    ]
    if report.amortization_undefined:
        rest = "The whole gap counts as that of its family."
        if report.local_parameters:
            rest = "What refining them gains is training."
        said.append(f"Amortization is undefined, not zero: {report.amortization_undefined}. {rest}")
    if not report.log_evidence.reliable.all():
        num_bad = int((~report.log_evidence.reliable).sum())
        more = _more(report)
        said.append(
            f"For {num_bad} of {len(report.elbo.estimate)} data points that is not to be trusted, and likely too low: "
            f"the gap and the approximation gap may be larger. {more} would tell."
        )
    structure = [report.structure] if report.structure else []
    found, last = causes(report), [*structure, *_unused(report), _more_time(report)]
    seen = is_significant(values(report)["gap"])
    trusted = report.log_evidence.reliable.any() and not report.elbo.warning
    # a part may be surer than the whole
    if trusted and not (seen or any(cause.per_point is not None for cause in found)):
        said.append(_unseen(gap))
    if not found:
        none = f"No {'other ' if report.elbo.warning else ''}cause was found." if report.measured else NOT_LOOKED_FOR
        return "\n".join([*said, none, *last]) + _unmeasured(report)
    first, *others = found
    if others and _tied(first, others[0]):
        said.append(f"Two causes cost about as much, and cannot be ranked: {_title(first)} and {_title(others[0])}.")
    else:
        said.append(f"The main cause is {_title(first)}.")
    said += [f"- {_title(cause)}: {cause.says} {cause.remedy}" for cause in found]
    return "\n".join([*said, *last]) + _unmeasured(report)


def _heavy_tails(report: Measured) -> list[str]:
    """That the ELBO is a mean of what has no finite variance, if so: then no line that it is in is to be trusted."""
    if not report.elbo.warning:
        return []
    return [
        f"The ELBO is not sure: {report.elbo.warning}. The gap, its parts and their errors are no "
        "surer. It comes of a guide with heavier tails than the posterior, such as Student's t for a Gaussian: rare "
        "draws where log p(x, z) is very low decide the mean."
    ]


def _unseen(gap: Mean) -> str:
    """What a gap that is not significant says: that the guide is not the cause only where its error is small."""
    if gap.estimate > SIGNIFICANT * gap.monte_carlo_error:
        why = f"the gap is less than the {LEAST} nats from which causes are looked for"
    elif gap.monte_carlo_error <= LEAST:
        why = "no gap is seen beyond its error"
    else:
        return (
            "Whether the guide keeps it low cannot be told: the Monte Carlo error of the gap is "
            f"{gap.monte_carlo_error:.2f} nats, and a cause counts from {LEAST} nats on. More samples would tell."
        )
    return f"The guide is not what keeps it low: {why}."


def _how(report: Measured) -> str:
    methods = sorted({name for each in report.log_evidence.methods for name in each.split(", ")})
    exact = {name for name, method in METHODS.items() if method.exact}
    return "exact" if exact.issuperset(methods) else f"a lower bound, by {', '.join(methods)}"


def _more(report: Measured) -> str:
    """What would make log p(x) surer where it is not to be trusted."""
    if NOT_REACHED in report.log_evidence.limits:
        return "More seconds"
    tried = (report.log_evidence.method, *report.log_evidence.methods, *report.log_evidence.candidates)
    if not any("ais" in name for name in tried):
        return "More particles, or a better proposal,"
    return "AIS with more temperatures"


def _more_time(report: Measured) -> str:
    """What endless draws would change: the error's Monte Carlo part, and half the variance, the logarithm's bias."""
    gap, evidence = values(report)["gap"].mean(), report.log_evidence
    if report.elbo.warning:
        return "More time for measuring need not lower the error of the gap, but shows whether the ELBO falls."
    if math.isnan(gap.monte_carlo_error):
        return "By a single draw the Monte Carlo error of the gap cannot be told; more would tell it."
    left, raised = math.sqrt(max(0.0, gap.error**2 - gap.monte_carlo_error**2)), evidence.std_error.square().mean() / 2
    said = f"More time for measuring would take the error of the gap from {gap.error:.3f} to {left:.3f}"
    up = f", and log p(x) up by {raised:.3f} nats."
    if left > HARDLY * gap.error:
        said = f"The error of the gap, {gap.error:.3f}, is the spread over data points; more time would not lower it"
        up = f", but take log p(x) up by {raised:.3f} nats." if raised >= LEAST_SHOWN else "."
    return said + (up if evidence.reliable.all() else "; how far up it would take log p(x) cannot be known from here.")


def _title(cause: Cause) -> str:
    return f"{cause.name} ({_nats(cause)})"


def _nats(cause: Cause) -> str:
    return "nats unknown" if math.isnan(cause.nats) else f"{cause.nats:.2f} +- {cause.std_error:.2f} nats"


def _tied(first: Cause, second: Cause) -> bool:
    if math.isnan(first.nats):
        return False
    return first.nats - second.nats < SIGNIFICANT * math.hypot(first.monte_carlo_error, second.monte_carlo_error)


def _unmeasured(report: Measured) -> str:
    missing = [f"{name} ({why})" for name, why in report.notes.items()]
    missing += [
        f"likelihood scale of '{site}' ({scale.undefined})"
        for site, scale in report.likelihood.items()
        if scale.undefined
    ]
    return f"\nTo note: {'; '.join(missing)}." if missing else ""


def _of_likelihood(report: Measured) -> list[Cause]:
    found = []
    for site, scale in report.likelihood.items():
        if scale.gain > max(LEAST, SIGNIFICANT * scale.std_error):  # never where they are NaN
            wide = "wide" if scale.factor < 1 else "narrow"
            says = (
                f"The likelihood of '{site}' is too {wide}: with its standard deviation times {scale.factor:.2f}, log "
                f"p(x) of new data gains at least {scale.gain:.2f} nats."
            )
            errors = scale.std_error, scale.monte_carlo_error
            found.append(Cause("likelihood scale", scale.gain, *errors, says, "Learn sigma, or set it so."))
    return found


def _of_overfitting(report: Measured) -> list[Cause]:
    """How much less log p(x) is than on training data; of points that can be trusted, as too low a value would count.

    What is trusted may be unlike the rest, so like is compared with like; and training data as a whole must have more,
    too. Two samples of data differ by chance, so only three errors over data tell.
    """
    if report.train is None:
        return []
    seen, held_out = report.train.log_evidence, report.log_evidence
    trusted = [record.estimate[record.reliable] for record in (seen, held_out)]
    if min(map(len, trusted)) < 2:
        return []
    nats = min(trusted[0].mean().item(), seen.estimate.mean().item()) - trusted[1].mean().item()
    error = math.hypot(*((each.std() / len(each) ** 0.5).item() for each in trusted))
    if not nats > max(LEAST, 3 * error):
        return []
    says = f"log p(x) is {nats:.2f} nats higher on training data: the model does not generalize."
    remedy = "Stop training earlier (held_out=HeldOut(data, patience=5)), shrink the decoder, or train on more data."
    noise = math.hypot(*(record.mean().monte_carlo_error for record in (seen, held_out)))
    return [Cause("overfitting", nats, error, noise, says, remedy)]


def _collapsed(report: Measured) -> list[str]:
    if report.guide_is_fixed:  # a fixed guide does not collapse: a diffusion ends in noise
        return []
    return [name for name, usage in report.latents.items() if usage.collapsed]


def _of_collapse(report: Measured) -> list[Cause]:
    """Nothing is encoded: a cause whose cost only another model could tell."""
    collapsed = _collapsed(report)
    if not collapsed or len(collapsed) < len(report.latents):
        return []
    says = (
        f"All latents have collapsed ({', '.join(collapsed)}): the guide there is the prior, and says nothing about "
        "the data."
    )
    remedy = "Try free bits, a warm-up of the KL, or a weaker decoder. What that would gain cannot be known from here."
    return [Cause("collapse", math.nan, math.nan, math.nan, says, remedy)]


def _unused(report: Measured) -> list[str]:
    """Latents that say nothing beside others that do: no loss to the ELBO."""
    collapsed = _collapsed(report)
    if not collapsed or len(collapsed) == len(report.latents):
        return []
    return [f"Unused: {', '.join(collapsed)}; the guide is the prior there, which by itself costs the ELBO nothing."]
