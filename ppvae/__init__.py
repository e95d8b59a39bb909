"""ppvae: model/guide pairs on Pyro, and the measure of their posterior gap in nats."""

from ppvae import datasets, models, networks, plots
from ppvae._version import __version__
from ppvae.arviz_export import to_arviz
from ppvae.contract import ContractError
from ppvae.inference import (
    ELBO,
    IWAE,
    CheckpointError,
    EnumeratedELBO,
    Evidence,
    EvidenceUndefined,
    Fit,
    Gap,
    LinearWarmup,
    Measurement,
    NonFiniteError,
    Objective,
    compare,
    elbo,
    fit,
    fit_em,
    fit_streaming_em,
    gap,
    load,
    log_evidence,
    save,
)
from ppvae.pair import Pair
from ppvae.weights import Weights

__all__ = [
    "ELBO",
    "IWAE",
    "CheckpointError",
    "ContractError",
    "EnumeratedELBO",
    "Evidence",
    "EvidenceUndefined",
    "Fit",
    "Gap",
    "LinearWarmup",
    "Measurement",
    "NonFiniteError",
    "Objective",
    "Pair",
    "Weights",
    "__version__",
    "compare",
    "datasets",
    "elbo",
    "fit",
    "fit_em",
    "fit_streaming_em",
    "gap",
    "load",
    "log_evidence",
    "models",
    "networks",
    "plots",
    "save",
    "to_arviz",
]
