# The public names, and where each lives; they are imported when they are first used.
from .diagnostics.cells import Cell as Cell, Table as Table
from .diagnostics.coverage_about_references import expected_coverage as expected_coverage
from .diagnostics.gradient_noise import gradient_statistics as gradient_statistics
from .diagnostics.latent_comparison import compare_latents as compare_latents
from .diagnostics.ledger_by_pattern import PatternReport as PatternReport, gap_by_pattern as gap_by_pattern
from .diagnostics.local_classifiers import local_classifier_test as local_classifier_test
from .diagnostics.modes_found import Modes as Modes
from .diagnostics.sample_comparison import compare_samples as compare_samples
from .diagnostics.simulation_based_calibration import calibration as calibration
from .diagnostics.splitting_kl import kl_split as kl_split
from .evidence.annealed_importance import AIS as AIS
from .evidence.both_sides import TwoSides as TwoSides, two_sides as two_sides
from .evidence.comparison import compare as compare
from .evidence.curve import BoundCurve as BoundCurve, bound_curve as bound_curve
from .evidence.estimates import elbo as elbo, log_evidence as log_evidence
from .ledger.decomposition import gap as gap
from .ledger.effort import Effort as Effort
from .ledger.report import GapReport as GapReport
from .ledger.terms import ElboTerms as ElboTerms, elbo_terms as elbo_terms
from .objectives.adversarial import AdversarialLoss as AdversarialLoss
from .objectives.debiased import JVI as JVI, SUMO as SUMO
from .objectives.dependencies import separable_sites as separable_sites
from .objectives.disentangling import DIPVAE as DIPVAE, BetaTCVAE as BetaTCVAE
from .objectives.divergence import kl_divergence as kl_divergence
from .objectives.enumerated import EnumeratedELBO as EnumeratedELBO
from .objectives.evidence_lower_bound import ELBO as ELBO
from .objectives.factor_vae import FactorVAE as FactorVAE
from .objectives.feature_elbo import FeatureELBO as FeatureELBO
from .objectives.gumbel import GumbelSoftmaxELBO as GumbelSoftmaxELBO
from .objectives.importance_weighted import (
    CIWAE as CIWAE,
    IWAE as IWAE,
    MIWAE as MIWAE,
    PIWAE as PIWAE,
    VIMCO as VIMCO,
    WeightObjective as WeightObjective,
)
from .objectives.protocol import Objective as Objective
from .objectives.renyi import CUBO as CUBO, Renyi as Renyi, VRMax as VRMax
from .objectives.reweighted import RWS as RWS
from .objectives.schedules import LinearWarmup as LinearWarmup
from .objectives.semi_supervised import SemiSupervisedELBO as SemiSupervisedELBO
from .objectives.single_term import SingleTermELBO as SingleTermELBO
from .objectives.spiked import SpikedELBO as SpikedELBO
from .objectives.thermodynamic import TVO as TVO
from .objectives.vector_quantized import VectorQuantizedELBO as VectorQuantizedELBO
from .runtime.checkpoint import CheckpointError as CheckpointError
from .runtime.pair_files import load as load, save as save
from .runtime.records import (
    Evidence as Evidence,
    EvidenceUndefined as EvidenceUndefined,
    Mean as Mean,
    Measurement as Measurement,
    Sandwich as Sandwich,
)
from .training.em import EMResult as EMResult, fit_em as fit_em, fit_streaming_em as fit_streaming_em
from .training.fitting import fit as fit
from .training.many import fit_many as fit_many
from .training.nonfinite import NonFiniteError as NonFiniteError
from .training.optimizers import ParameterGroups as ParameterGroups
from .training.result import Fit as Fit
from .training.settings import Checkpoint as Checkpoint, HeldOut as HeldOut, StepOptions as StepOptions
from .training.trainer import Trainer as Trainer
