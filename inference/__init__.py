"""Objectives, training, and measurement of evidence and gap."""

from ppvae.inference.annealed_importance import AIS
from ppvae.inference.bound_curve import BoundCurve, bound_curve
from ppvae.inference.calibration import calibration
from ppvae.inference.checkpoint import CheckpointError, load, save
from ppvae.inference.compare import compare
from ppvae.inference.debiased import JVI, SUMO
from ppvae.inference.divergence import kl_divergence, separable_sites
from ppvae.inference.effort import Effort
from ppvae.inference.elbo_terms import ElboTerms, elbo_terms
from ppvae.inference.em import EMResult, fit_em, fit_streaming_em
from ppvae.inference.evidence import elbo, log_evidence
from ppvae.inference.fit import fit
from ppvae.inference.gap import gap
from ppvae.inference.gap_report import GapReport
from ppvae.inference.gradient_statistics import gradient_statistics
from ppvae.inference.gumbel import GumbelSoftmaxELBO
from ppvae.inference.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, VIMCO, WeightObjective
from ppvae.inference.nonfinite import NonFiniteError
from ppvae.inference.objectives import ELBO, EnumeratedELBO, LinearWarmup, Objective
from ppvae.inference.records import Evidence, EvidenceUndefined, Mean, Measurement, Sandwich
from ppvae.inference.renyi import CUBO, Renyi, VRMax
from ppvae.inference.reweighted import RWS
from ppvae.inference.single_term import SingleTermELBO
from ppvae.inference.thermodynamic import TVO
from ppvae.inference.training import Fit

__all__ = [
    "AIS",
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "JVI",
    "MIWAE",
    "PIWAE",
    "RWS",
    "SUMO",
    "TVO",
    "VIMCO",
    "BoundCurve",
    "CheckpointError",
    "EMResult",
    "Effort",
    "ElboTerms",
    "EnumeratedELBO",
    "Evidence",
    "EvidenceUndefined",
    "Fit",
    "GapReport",
    "GumbelSoftmaxELBO",
    "LinearWarmup",
    "Mean",
    "Measurement",
    "NonFiniteError",
    "Objective",
    "Renyi",
    "Sandwich",
    "SingleTermELBO",
    "VRMax",
    "WeightObjective",
    "bound_curve",
    "calibration",
    "compare",
    "elbo",
    "elbo_terms",
    "fit",
    "fit_em",
    "fit_streaming_em",
    "gap",
    "gradient_statistics",
    "kl_divergence",
    "load",
    "log_evidence",
    "save",
    "separable_sites",
]
