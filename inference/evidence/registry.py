"""The methods of `ppvae.log_evidence`, by name: one line each."""

from ppvae.inference.evidence.ais import AnnealedImportanceSampling
from ppvae.inference.evidence.auto import Auto
from ppvae.inference.evidence.bdmc import BidirectionalMonteCarlo
from ppvae.inference.evidence.best import Best
from ppvae.inference.evidence.exact import Exact
from ppvae.inference.evidence.iwae import ImportanceWeights
from ppvae.inference.evidence.method import EvidenceMethod
from ppvae.inference.evidence.particle_filter import ParticleFilter

METHODS: dict[str, EvidenceMethod] = {}


def register(*methods: EvidenceMethod) -> None:
    """Adds methods to those of `log_evidence`; "auto" and "best" see them too."""
    METHODS.update({method.name: method for method in methods})


register(
    Auto(METHODS),
    Exact(),
    ImportanceWeights(),
    AnnealedImportanceSampling("guide"),
    AnnealedImportanceSampling("prior"),
    BidirectionalMonteCarlo(),
    Best(METHODS),
    ParticleFilter(guided=True),
    ParticleFilter(guided=False),
)


def method_named(name: str) -> EvidenceMethod:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(f"method: found {name!r}, expected one of {tuple(METHODS)}")
    return METHODS[name]
