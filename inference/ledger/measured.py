"""What was measured about a pair for its ledger; the lines follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ppvae.inference.ledger.latent_usage import LatentUsage
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale
from ppvae.inference.runtime.records import Evidence, Measurement


@dataclass(frozen=True)
class Measured:
    """All that was measured about a pair on a data set, per data point and with standard errors.

    Attributes:
        pair: the name of the pair's class.
        log_evidence: log p(x), and how it was measured.
        elbo: of the amortized guide.
        measured: further ELBOs by the name of their line, in the order of the registry; those that were not measured
            are not there, and `notes` says why.
        latents: usage of each latent site of the guide, by name.
        likelihood: what rescaling each Gaussian observation would gain, by site.
        amortization_undefined: why the guide does not amortize, if it does not; empty otherwise.
        local_parameters: whether that is so because each data point has parameters of its own.
        structure: whether amortization can close its gap at all, in a sentence; empty where that was not looked at.
        out_of_reach: whether a part of it is out of every network's reach, as the guide does not look at what it needs.
        train: the same on training data, if there were any.
        notes: by line, why it was not measured, or what went wrong.
        settings: what `ppvae.gap` was asked for, by name, and the versions that measured.
    """

    pair: str
    log_evidence: Evidence
    elbo: Measurement
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    latents: Mapping[str, LatentUsage] = field(default_factory=dict)
    likelihood: Mapping[str, LikelihoodScale] = field(default_factory=dict)
    amortization_undefined: str = ""
    local_parameters: bool = False
    structure: str = ""
    out_of_reach: bool = False
    train: "Measured | None" = None
    notes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def guide_is_fixed(self) -> bool:
        """Whether the guide learns nothing."""
        return bool(self.amortization_undefined) and not self.local_parameters

    def best_of_family(self) -> Measurement | None:
        """The ELBO of the best guide of its family: the refined one, or, if the guide learns nothing, the guide."""
        return self.elbo if self.guide_is_fixed else self.measured.get("elbo_refined")
