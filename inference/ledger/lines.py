"""The lines of the ledger: what each is, and how they follow from what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ppvae.inference.ledger.latent_usage import LatentUsage
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale
from ppvae.inference.runtime.records import Evidence, Mean, Measurement

LINES = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "gap": "gap, log p(x) - ELBO",
    "approximation_gap": "  of it: the guide's family",
    "correlation_gap": "    a full covariance closes",
    "shape_gap": "    a flow closes further",
    "remaining_gap": "    beyond both",
    "amortization_gap": "  of it: amortization",
    "training_gap": "    more training of the guide closes",
    "capacity_gap": "    beyond that",
    "elbo_refined": "ELBO, own family refined",
    "elbo_full_rank": "ELBO, full-rank",
    "elbo_flow": "ELBO, flow",
    "elbo_refitted": "ELBO, guide refitted",
}
"""The lines in the order of the table, and how it calls them."""


@dataclass(frozen=True)
class Ledger:
    """What stands between log p(x) and the ELBO of a pair on a data set, per data point and with standard errors.

    `gap = log_evidence - elbo = approximation_gap + amortization_gap`, exactly, for each data point;
    `approximation_gap = correlation_gap + shape_gap + remaining_gap`, and `amortization_gap = training_gap +
    capacity_gap`. A line that was not measured is None, and `notes` says why.

    Of a guide that learns nothing there is no best of its family but itself: the whole gap is the approximation gap,
    and the amortization gap is undefined, None, as `amortization_undefined` says.

    Where the evidence is a stochastic lower bound, the gap and the approximation gap are too. The standard errors of
    differences join those of both ends, which are measured with independent draws.

    Source: Cremer et al. 2018 (arXiv:1801.03558) for the two gaps; the further lines are this project's.

    Attributes:
        pair: the name of the pair's class.
        log_evidence: log p(x), and how it was measured.
        elbo: of the amortized guide.
        elbo_refined: of the best guide of its own family found for each data point.
        elbo_full_rank: of the best image of that under an affine map of the latents; of a Gaussian guide, the best
            full-rank Gaussian.
        elbo_flow: of the best image under a flow.
        elbo_refitted: of the amortized guide after more training with the model frozen.
        latents: usage of each latent site of the guide, by name.
        likelihood: what rescaling each Gaussian observation would gain, by site.
        amortization_undefined: why the guide does not amortize, if it does not; empty otherwise.
        train: the same lines on training data, if there were any.
        notes: by line, why it was not measured, or what went wrong.
    """

    pair: str
    log_evidence: Evidence
    elbo: Measurement
    elbo_refined: Measurement | None = None
    elbo_full_rank: Measurement | None = None
    elbo_flow: Measurement | None = None
    elbo_refitted: Measurement | None = None
    latents: Mapping[str, LatentUsage] = field(default_factory=dict)
    likelihood: Mapping[str, LikelihoodScale] = field(default_factory=dict)
    amortization_undefined: str = ""
    train: "Ledger | None" = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> Measurement:
        """`log p(x) - ELBO = KL(q(z | x) || p(z | x))`."""
        return _less("gap", self.log_evidence, self.elbo)

    @property
    def approximation_gap(self) -> Measurement | None:
        """`log p(x) - ELBO` of the best guide of the family: what no amortized guide of it can avoid."""
        return _difference("approximation gap", self.log_evidence, self._best_of_family)

    @property
    def amortization_gap(self) -> Measurement | None:
        """What that best guide gains over the amortized one."""
        return self.elbo_refined and _less("amortization gap", self.elbo_refined, self.elbo)

    @property
    def correlation_gap(self) -> Measurement | None:
        """What a full covariance gains over the guide's own family."""
        return _difference("correlation gap", self.elbo_full_rank, self._best_of_family)

    @property
    def shape_gap(self) -> Measurement | None:
        """What a flow gains over a full covariance."""
        return _difference("shape gap", self.elbo_flow, self.elbo_full_rank)

    @property
    def remaining_gap(self) -> Measurement | None:
        """What not even the flow reaches: modes left out, and what its fit has missed."""
        return _difference("remaining gap", self.log_evidence, self.elbo_flow)

    @property
    def training_gap(self) -> Measurement | None:
        """What more training of the guide gains, the model as it is."""
        return _difference("training gap", self.elbo_refitted, self.elbo)

    @property
    def capacity_gap(self) -> Measurement | None:
        """What the refitted guide still loses to the refined ones: its networks are too small, or do not generalize."""
        return _difference("capacity gap", self.elbo_refined, self.elbo_refitted)

    @property
    def _best_of_family(self) -> Measurement | None:
        return self.elbo if self.amortization_undefined else self.elbo_refined

    def mean(self) -> Mean:
        """The mean of the gap over data points."""
        return self.gap.mean()

    def lines(self) -> dict[str, Measurement]:
        """The lines that were measured, by name."""
        found = {name: getattr(self, name) for name in LINES}
        return {name: line for name, line in found.items() if line is not None}


def _difference(name: str, a: Measurement | None, b: Measurement | None) -> Measurement | None:
    return _less(name, a, b) if a is not None and b is not None else None


def _less(name: str, a: Measurement, b: Measurement) -> Measurement:
    return Measurement(
        estimate=a.estimate - b.estimate,
        std_error=torch.hypot(a.std_error, b.std_error),
        num_particles=a.num_particles + b.num_particles,
        method=name,
        warning=a.warning or b.warning,
    )
