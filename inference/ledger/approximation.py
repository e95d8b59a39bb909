"""The lines of the guide's family: what its best members cost, and what richer families would gain."""

import torch

from ppvae.inference.ledger.cause import Cause, significant
from ppvae.inference.ledger.lines import Bar, Line, richest
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.trials import advice
from ppvae.inference.runtime.differences import difference, plus
from ppvae.inference.runtime.records import Measurement

COLOR = "C0"

MISSED = 0.1
"""Nats that AIS from the prior must find beyond all else, on average, for modes to be called missed."""


def _family(found: Measured, line: Measurement) -> list[Cause]:
    if found.guide_is_fixed:
        return significant(
            "family",
            line,
            lambda nats: f"The guide, which cannot learn, is {nats:.2f} nats from the posterior.",
            "Let the model come nearer (train it longer; give a diffusion more steps), or let the guide learn.",
        )
    return significant(
        "family",
        line,
        lambda nats: f"The best guides of the same family, one for each data point, still fall {nats:.2f} nats short.",
        "Try a richer posterior.",
    )


def _correlation(found: Measured, line: Measurement) -> list[Cause]:
    return significant(
        "correlation",
        line,
        lambda nats: f"A full covariance for each data point gains {nats:.2f} nats over the best guides of the family.",
        **advice(found, "elbo_full_rank_head", "a guide with correlated latents (full covariance, or a flow)"),
    )


def _shape(found: Measured, line: Measurement) -> list[Cause]:
    return significant(
        "shape",
        line,
        lambda nats: (
            f"A flow for each data point gains {nats:.2f} nats over the best "
            f"{'guides of the family' if _is_line(found) or _of_marginals(found) else 'full covariances'}."
        ),
        **advice(found, "elbo_flow_head", "a flow as posterior"),
    )


def _is_line(found: Measured) -> bool:
    """Whether there is one latent dimension, which has no correlations."""
    return sum(usage.num_units for usage in found.latents.values()) == 1


def _of_marginals(found: Measured) -> Measurement | None:
    """What moving and scaling each latent by itself gains, where that leaves the family."""
    return difference("marginals", found.measured.get("elbo_marginals"), found.best_of_family())


def _correlation_gap(found: Measured) -> Measurement | None:
    if _is_line(found):
        return None
    without = found.measured.get("elbo_marginals", found.best_of_family())
    return difference("correlation gap", found.measured.get("elbo_full_rank"), without)


def _shape_gap(found: Measured) -> Measurement | None:
    flow = found.measured.get("elbo_flow")
    if _is_line(found):
        return difference("shape gap", flow, found.best_of_family())
    gained = difference("shape gap", flow, found.measured.get("elbo_full_rank"))
    marginals = _of_marginals(found)
    return gained if gained is None or marginals is None else plus("shape gap", gained, marginals)


def _beyond(found: Measured, line: Measurement) -> list[Cause]:
    return _modes(found) or significant(
        "remaining shape",
        line,
        lambda nats: (
            f"Not even a flow for each data point reaches log p(x): {nats:.2f} nats remain, due to shapes it lacks or "
            "to its fit."
        ),
        "Try a posterior of several components, or more effort.",
    )


def _modes(found: Measured) -> list[Cause]:
    """Modes that AIS from the prior finds, but neither the guide nor AIS from it."""
    candidates = found.log_evidence.candidates
    if "ais from prior" not in candidates or len(candidates) < 2:
        return []
    from_prior = candidates["ais from prior"]
    others = torch.stack([record.estimate for name, record in candidates.items() if name != "ais from prior"])
    more = Measurement(
        from_prior.estimate - others.amax(0), from_prior.std_error, from_prior.num_particles, "beyond the guide"
    )
    causes = significant(
        "modes",
        more,
        lambda nats: (
            f"AIS from the prior finds {nats:.2f} nats that neither importance weights nor AIS from the guide find: "
            "the guide leaves out modes of the posterior."
        ),
        "Try a posterior of several components, or train with a mass-covering bound (IWAE, RWS).",
    )
    return [cause for cause in causes if cause.nats > MISSED]


APPROXIMATION_GAP = Line(
    "approximation_gap",
    label="of it: the guide's family",
    about="`log_evidence - elbo_refined`: what no amortized guide of the family can avoid",
    value=lambda found: difference("approximation gap", found.log_evidence, found.best_of_family()),
    part_of="gap",
    causes=_family,
    bar=Bar("family", COLOR, place=1),
)
CORRELATION_GAP = Line(
    "correlation_gap",
    label="a full covariance closes",
    about="`elbo_full_rank - elbo_refined`, or `elbo_full_rank - elbo_marginals` where that was measured: what a full "
    "covariance gains over latents that are each moved and scaled by themselves; one latent dimension has none",
    value=_correlation_gap,
    part_of="approximation_gap",
    causes=_correlation,
    bar=Bar("family: correlation", COLOR, place=2),
)
SHAPE_GAP = Line(
    "shape_gap",
    label="a flow closes further",
    about="`elbo_flow - elbo_full_rank`, and `elbo_marginals - elbo_refined` where that was measured: what other "
    "shapes gain, but for correlations; over the guide's own family where there is one latent dimension",
    value=_shape_gap,
    part_of="approximation_gap",
    causes=_shape,
    bar=Bar("family: shape", COLOR, place=3),
)
REMAINING_GAP = Line(
    "remaining_gap",
    label="beyond both",
    about="`log_evidence - elbo_flow`: what not even the flow reaches: modes left out, and what its fit has missed",
    value=lambda found: difference("remaining gap", found.log_evidence, richest(found)),
    part_of="approximation_gap",
    causes=_beyond,
    bar=Bar("family: beyond", COLOR, place=4),
)
ELBO_REFINED = Line(
    "elbo_refined",
    label="ELBO, own family refined",
    about="each data point gets its own offsets to the arguments of each guide site's distribution, within its "
    "family, found by gradient ascent; or the pair searches (`best_elbo`), as for discrete codes",
    measure=lambda bench: bench.own_family.elbo,
)
ELBO_MARGINALS = Line(
    "elbo_marginals",
    label="ELBO, each latent moved and scaled",
    about="the best image of the refined guide under a map that moves and scales each latent dimension by itself, "
    "where that leaves the guide's family, as for an exponential distribution",
    measure=lambda bench: bench.richer_families.get("marginals"),
    richer=True,
)
ELBO_FULL_RANK = Line(
    "elbo_full_rank",
    label="ELBO, full-rank",
    about="the best image of the refined guide under an affine map of the latents; for a Gaussian guide, the best "
    "full-rank Gaussian",
    measure=lambda bench: bench.richer_families.get("full_rank"),
    richer=True,
)
ELBO_FLOW = Line(
    "elbo_flow",
    label="ELBO, flow",
    about="the best image of the refined guide under a flow",
    measure=lambda bench: bench.richer_families.get("flow"),
    richer=True,
)
