"""The lines of the ledger, in the order of its table: one entry each."""

from ppvae.inference.ledger import amortization, approximation, trials
from ppvae.inference.ledger.differences import less
from ppvae.inference.ledger.lines import LINES, Bar, Line, finest, in_order, register, values

__all__ = ["LINES", "finest", "in_order", "register", "values"]

register(
    Line(
        "log_evidence",
        label="log p(x)",
        about="exact where the pair knows it; else the largest of importance weights, AIS from the guide, "
        "and AIS from the prior",
        value=lambda found: found.log_evidence,
    ),
    Line("elbo", label="ELBO", about="draws from the guide as it is", value=lambda found: found.elbo),
    Line(
        "gap",
        label="gap, log p(x) - ELBO",
        about="`log_evidence - elbo`: the KL divergence from the guide to the posterior",
        value=lambda found: less("gap", found.log_evidence, found.elbo),
        bar=Bar("gap", amortization.COLOR),
    ),
    approximation.APPROXIMATION_GAP,
    approximation.CORRELATION_GAP,
    approximation.SHAPE_GAP,
    approximation.REMAINING_GAP,
    amortization.AMORTIZATION_GAP,
    amortization.TRAINING_GAP,
    amortization.CAPACITY_GAP,
    approximation.ELBO_REFINED,
    approximation.ELBO_FULL_RANK,
    approximation.ELBO_FLOW,
    amortization.ELBO_REFITTED,
    trials.ELBO_SECOND_ENCODER,
    trials.ELBO_MODEL_SAMPLES,
    trials.ELBO_FULL_RANK_HEAD,
    trials.ELBO_FLOW_HEAD,
)
