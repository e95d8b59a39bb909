"""The lines of the ledger, in the order of its table: one entry each."""

from ppvae.inference.ledger import amortization, approximation, trials
from ppvae.inference.ledger.lines import LINES, Bar, Line, finest, in_order, register, values
from ppvae.inference.ledger.shared_error import shared_error
from ppvae.inference.runtime.differences import less

__all__ = ["LINES", "finest", "in_order", "register", "values"]

register(
    Line(
        "log_evidence",
        label="log p(x)",
        about="exact where the pair knows it; else the largest of importance weights, AIS from the guide, "
        "and AIS from the prior; where that is not to be trusted, of the ELBOs below too",
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
    Line(
        "shared_error",
        label="standard error that all data points share",
        about="of a normalizer that is estimated once for all data, as log Z of a large Boltzmann machine; "
        "`log_evidence` and `elbo` are off by the same for each data point, the gap is not",
        measure=shared_error,
    ),
    approximation.ELBO_REFINED,
    approximation.ELBO_MARGINALS,
    approximation.ELBO_FULL_RANK,
    approximation.ELBO_FLOW,
    amortization.ELBO_REFITTED,
    amortization.ELBO_CONTROL,
    trials.ELBO_SECOND_ENCODER,
    trials.ELBO_MODEL_SAMPLES,
    trials.ELBO_FULL_RANK_HEAD,
    trials.ELBO_FLOW_HEAD,
)
