# The public names, and where each lives; they are imported when they are first used.
from . import datasets as datasets, inference as inference, models as models, networks as networks, sklearn as sklearn
from ._version import __version__ as __version__
from .encoding import Encoding as Encoding
from .inference.diagnostics.coverage_about_references import expected_coverage as expected_coverage
from .inference.diagnostics.gradient_noise import gradient_statistics as gradient_statistics
from .inference.diagnostics.latent_comparison import compare_latents as compare_latents
from .inference.diagnostics.ledger_by_pattern import (
    PatternReport as PatternReport,
    gap_by_pattern as gap_by_pattern,
)
from .inference.diagnostics.local_classifiers import local_classifier_test as local_classifier_test
from .inference.diagnostics.modes_found import Modes as Modes
from .inference.diagnostics.sample_comparison import compare_samples as compare_samples
from .inference.diagnostics.simulation_based_calibration import calibration as calibration
from .inference.diagnostics.splitting_kl import kl_split as kl_split
from .inference.evidence.annealed_importance import AIS as AIS
from .inference.evidence.both_sides import TwoSides as TwoSides, two_sides as two_sides
from .inference.evidence.comparison import compare as compare
from .inference.evidence.curve import bound_curve as bound_curve
from .inference.evidence.estimates import elbo as elbo, log_evidence as log_evidence
from .inference.ledger.decomposition import gap as gap
from .inference.ledger.effort import Effort as Effort
from .inference.ledger.report import GapReport as GapReport
from .inference.ledger.terms import ElboTerms as ElboTerms, elbo_terms as elbo_terms
from .inference.objectives.adversarial import AdversarialLoss as AdversarialLoss
from .inference.objectives.debiased import JVI as JVI, SUMO as SUMO
from .inference.objectives.disentangling import DIPVAE as DIPVAE, BetaTCVAE as BetaTCVAE
from .inference.objectives.enumerated import EnumeratedELBO as EnumeratedELBO
from .inference.objectives.evidence_lower_bound import ELBO as ELBO
from .inference.objectives.factor_vae import FactorVAE as FactorVAE
from .inference.objectives.feature_elbo import FeatureELBO as FeatureELBO
from .inference.objectives.gumbel import GumbelSoftmaxELBO as GumbelSoftmaxELBO
from .inference.objectives.importance_weighted import (
    CIWAE as CIWAE,
    IWAE as IWAE,
    MIWAE as MIWAE,
    PIWAE as PIWAE,
    VIMCO as VIMCO,
)
from .inference.objectives.protocol import Objective as Objective
from .inference.objectives.renyi import CUBO as CUBO, Renyi as Renyi, VRMax as VRMax
from .inference.objectives.reweighted import RWS as RWS
from .inference.objectives.schedules import LinearWarmup as LinearWarmup
from .inference.objectives.semi_supervised import SemiSupervisedELBO as SemiSupervisedELBO
from .inference.objectives.single_term import SingleTermELBO as SingleTermELBO
from .inference.objectives.spiked import SpikedELBO as SpikedELBO
from .inference.objectives.thermodynamic import TVO as TVO
from .inference.objectives.vector_quantized import VectorQuantizedELBO as VectorQuantizedELBO
from .inference.runtime.checkpoint import CheckpointError as CheckpointError
from .inference.runtime.pair_files import load as load, save as save
from .inference.runtime.records import (
    Evidence as Evidence,
    EvidenceUndefined as EvidenceUndefined,
    Measurement as Measurement,
    Sandwich as Sandwich,
)
from .inference.training.em import fit_em as fit_em, fit_streaming_em as fit_streaming_em
from .inference.training.fitting import fit as fit
from .inference.training.loggers import (
    CSVLogger as CSVLogger,
    MLflowLogger as MLflowLogger,
    TensorBoardLogger as TensorBoardLogger,
    WandbLogger as WandbLogger,
)
from .inference.training.many import fit_many as fit_many
from .inference.training.nonfinite import NonFiniteError as NonFiniteError
from .inference.training.optimizers import ParameterGroups as ParameterGroups
from .inference.training.result import Fit as Fit
from .inference.training.settings import Checkpoint as Checkpoint, HeldOut as HeldOut, StepOptions as StepOptions
from .inference.training.trainer import Trainer as Trainer
from .pair import Pair as Pair
from .progress import set_progress as set_progress
from .refusals import ContractError as ContractError
from .views import pictures as pictures, plots as plots
from .views.arviz_export import to_arviz as to_arviz
from .weights import Weights as Weights
