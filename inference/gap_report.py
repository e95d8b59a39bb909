"""The ledger of the gap: where the nats between log p(x) and the ELBO go, per data point, each with its error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ppvae.inference.latent_usage import LatentUsage
from ppvae.inference.likelihood_scale import LikelihoodScale
from ppvae.inference.record_files import read_record, write_record
from ppvae.inference.records import Evidence, Mean, Measurement, Sandwich

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "gap": "gap, log p(x) - ELBO",
    "approximation_gap": "  of it: the guide's family",
    "correlation_gap": "    a full covariance closes",
    "shape_gap": "    a flow closes further",
    "remaining_gap": "    beyond both",
    "amortization_gap": "  of it: amortisation",
    "training_gap": "    more training of the guide closes",
    "capacity_gap": "    beyond that",
    "elbo_refined": "ELBO, own family refined",
    "elbo_full_rank": "ELBO, full-rank",
    "elbo_flow": "ELBO, flow",
    "elbo_refitted": "ELBO, guide refitted",
}
"""The lines in the order of the table, and how it calls them."""


@dataclass(frozen=True)
class GapReport:
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
        elbo: of the amortised guide.
        elbo_refined: of the best guide of its own family found for each data point.
        elbo_full_rank: of the best image of that under an affine map of the latents; of a Gaussian guide, the best
            full-rank Gaussian.
        elbo_flow: of the best image under a flow.
        elbo_refitted: of the amortised guide after more training with the model frozen.
        latents: usage of each latent site of the guide, by name.
        likelihood: what rescaling each Gaussian observation would gain, by site.
        amortization_undefined: why the guide does not amortise, if it does not; empty otherwise.
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
    train: "GapReport | None" = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> Measurement:
        """`log p(x) - ELBO = KL(q(z | x) || p(z | x))`."""
        return _less("gap", self.log_evidence, self.elbo)

    @property
    def approximation_gap(self) -> Measurement | None:
        """`log p(x) - ELBO` of the best guide of the family: what no amortised guide of it can avoid."""
        return _difference("approximation gap", self.log_evidence, self._best_of_family)

    @property
    def amortization_gap(self) -> Measurement | None:
        """What that best guide gains over the amortised one."""
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
        """What the refitted guide still loses to the refined ones: its networks are too small, or do not generalise."""
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

    def summary(self) -> pd.DataFrame:
        """The table: for each line nats per data point, the standard error over data points, and the Monte Carlo error.

        Lines of latent sites and of training data follow. What is undefined is NaN, and its line says so.
        """
        lines, table = self.lines(), {}
        for name, label in LINES.items():
            if name in lines:
                table[label] = lines[name].mean()
            elif name == "amortization_gap" and self.amortization_undefined:
                table[f"{label} (undefined: the guide is fixed)"] = Mean(math.nan, math.nan, math.nan, 0)
        table |= {f"{usage.term} of {name}": usage.kl.mean() for name, usage in self.latents.items()}
        if self.train:
            table |= {f"training data: {LINES[name].strip()}": line.mean() for name, line in self.train.lines().items()}
        return pd.DataFrame(
            {
                "nats": [mean.estimate for mean in table.values()],
                "std_error": [mean.std_error for mean in table.values()],
                "monte_carlo_error": [mean.monte_carlo_error for mean in table.values()],
            },
            index=pd.Index(list(table), name=f"{self.pair}, {len(self.elbo.estimate)} data points"),
        )

    def verdict(self) -> str:
        """What the lines say, in a few sentences, with the experiment behind each; see `ppvae.inference.verdict`."""
        from ppvae.inference.verdict import verdict

        return verdict(self)

    def plot(self) -> "Figure":
        """The way from log p(x) down to the ELBO, and each line's distribution over data points."""
        from ppvae.plots import ledger

        return ledger(self)

    def to_arviz(self) -> Any:
        """The report as ArviZ's container, labelled and per data point; write it with `.to_netcdf(path)`.

        Groups: `ledger` (each measured line, and `<line>_std_error`, in nats over `data`; a line's note is among its
        attributes) and `evidence` (estimate, std_error, ess, khat and reliable of each candidate, the last being what
        the ledger has, over `candidate` and `data`; and `taken`, by which method each data point was measured there).

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.

        Example:
            >>> import ppvae
            >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2).fit_guide()
            >>> found = ppvae.gap(pair, pair.sample(20), "quick", progress=False).to_arviz()
            >>> sorted(found["ledger"]), found["evidence"]["candidate"].values.tolist()
            (['elbo', 'elbo_std_error', 'gap', 'gap_std_error', 'log_evidence', 'log_evidence_std_error'], ['exact'])
        """
        from ppvae.arviz_export import as_arviz

        return as_arviz({"ledger": self._ledger(), "evidence": self._evidence()})

    def _ledger(self) -> xr.Dataset:
        variables = {}
        for name, line in self.lines().items():
            about = {"units": "nats", "long_name": LINES[name].strip(), "method": line.method, "warning": line.warning}
            variables[name] = ("data", line.estimate.numpy(), about | {"note": self.notes.get(name, "")})
            variables[f"{name}_std_error"] = ("data", line.std_error.numpy(), {"units": "nats"})
        about = {"pair": self.pair, "amortization_undefined": self.amortization_undefined}
        return xr.Dataset(variables, {"data": np.arange(len(self.elbo.estimate))}, about)

    def _evidence(self) -> xr.Dataset:
        taken = self.log_evidence
        records = {**taken.candidates, taken.method: taken}
        variables: dict[str, Any] = {
            name: (("candidate", "data"), np.stack([getattr(record, name).numpy() for record in records.values()]))
            for name in ("estimate", "std_error", "ess", "khat", "reliable")
        }
        variables["taken"] = ("data", np.array(taken.methods))
        coords = {"candidate": list(records), "data": np.arange(len(taken.estimate))}
        return xr.Dataset(variables, coords, {"pair": self.pair, "reason": taken.reason})

    def save(self, path: str | Path) -> None:
        """Writes the report to a file, which replaces an old one whole or not at all."""
        write_record(self, path)

    @staticmethod
    def load(path: str | Path) -> "GapReport":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or holds something else.
        """
        return read_record(path, (GapReport, Evidence, Measurement, Sandwich, LatentUsage, LikelihoodScale))

    def __str__(self) -> str:
        return f"{self.summary().round(3).to_string()}\n\n{self.verdict()}"


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
