"""The ledger of the gap: where the nats between log p(x) and the ELBO go, per data point, each with its error."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from ppvae.arguments import File, Shape, checked
from ppvae.inference.ledger.latent_usage import LatentUsage
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale
from ppvae.inference.ledger.measured import Measured
from ppvae.inference.ledger.registry import LINES, in_order, values
from ppvae.inference.ledger.verdicts import verdict
from ppvae.inference.runtime.record_files import read_record, write_record
from ppvae.inference.runtime.records import Evidence, Mean, Measurement, Sandwich
from ppvae.presentation import present
from ppvae.wording import counted, figures


@checked
@dataclass(frozen=True, repr=False)
class GapReport(Measured):
    """What stands between log p(x) and the ELBO of a pair on a data set, as `ppvae.gap` returns it.

    Each line of the ledger is an attribute, a `Measurement` per data point with standard errors: `log_evidence`,
    `elbo`, `gap`, `approximation_gap`, `correlation_gap`, `shape_gap`, `remaining_gap`, `amortization_gap`,
    `training_gap`, `capacity_gap`, `shared_error`, `elbo_refined`, `elbo_marginals`, `elbo_full_rank`, `elbo_flow`,
    `elbo_refitted`, `elbo_control`; and, where they were tried, `elbo_second_encoder`, `elbo_model_samples`,
    `elbo_full_rank_head`, `elbo_flow_head`. A line that was not measured is None; `notes` says why
    where it might have been.

    `gap = log_evidence - elbo = approximation_gap + amortization_gap`, exactly, for each data point;
    `approximation_gap = correlation_gap + shape_gap + remaining_gap`, and `amortization_gap = training_gap +
    capacity_gap`.

    If a guide learns nothing, it is the only member of its family: the whole gap is the approximation gap, and the
    amortization gap is undefined, None, as `amortization_undefined` says. It is so too where each data point has
    parameters of its own: then `gap = approximation_gap + training_gap`.

    Where the evidence is a stochastic lower bound, the gap and the approximation gap are too. The standard errors of
    differences combine those of both ends, which are measured with independent draws.

    Source: Cremer et al. 2018 (arXiv:1801.03558) for the two gaps; the further lines are this project's.
    """

    def __getattr__(self, name: str) -> Any:
        """The line of that name; other attributes are found before this is called."""
        if name not in LINES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return LINES[name].of(self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *LINES})

    def mean(self) -> Mean:
        """The mean of the gap over data points."""
        return self.gap.mean()

    def lines(self) -> dict[str, Measurement]:
        """The lines that were measured, by name, in the order of the table."""
        return values(self)

    def summary(self) -> pd.DataFrame:
        """The table: for each line nats per data point, the standard error over data points, and the Monte Carlo error.

        Lines of latent sites and of training data follow. What is undefined is NaN, and its line says so.
        """
        lines, table = self.lines(), {}
        for line, depth in in_order():
            label = "  " * depth + line.label
            if line.name in lines:
                table[label] = lines[line.name].mean()
            elif why := line.undefined(self):
                table[f"{label} (undefined: {why})"] = Mean(math.nan, math.nan, math.nan, 0)
        table |= {f"{usage.term} of {name}": usage.kl.mean() for name, usage in self.latents.items()}
        if self.train:
            table |= {f"training data: {LINES[name].label}": line.mean() for name, line in values(self.train).items()}
        return pd.DataFrame(
            {
                "nats": [mean.estimate for mean in table.values()],
                "std_error": [mean.std_error for mean in table.values()],
                "monte_carlo_error": [mean.monte_carlo_error for mean in table.values()],
            },
            index=pd.Index(list(table), name=f"{self.pair}, {counted(len(self.elbo.estimate), 'data point')}"),
        )

    def verdict(self) -> str:
        """What the lines say, in a few sentences, with the experiment behind each."""
        return verdict(self)

    def plot(self) -> Any:
        """The way from log p(x) down to the ELBO, and each line's distribution over data points."""
        return present("ledger plot", self)

    def to_arviz(self) -> Any:
        """The report as ArviZ's container, labeled and per data point; write it with `.to_netcdf(path)`.

        Groups: `ledger` (each measured line, and `<line>_std_error`, in nats over `data`; a line's note is among its
        attributes) and `evidence` (estimate, std_error, ess, khat and reliable of each candidate, the last being the
        ledger's, over `candidate` and `data`; and `taken`, the method by which the ledger measured each data point).

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.

        Example:
            >>> import ppvae
            >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2).fit_guide()
            >>> found = ppvae.gap(pair, pair.sample(20), "quick", progress=False).to_arviz()
            >>> sorted(found["ledger"]), found["evidence"]["candidate"].values.tolist()
            (['elbo', 'elbo_std_error', 'gap', 'gap_std_error', 'log_evidence', 'log_evidence_std_error'], ['exact'])
        """
        return present("ledger to ArviZ", self)

    @checked
    def to_html(
        self,
        path: File,
        data: Any = None,
        *,
        shape: Shape | None = None,
        gradients: xr.Dataset | None = None,
    ) -> None:
        """Writes the report as one HTML file that needs nothing else: verdict, lines, data points, settings.

        It reads well in light and in dark, on a phone and on a wide screen, and can be mailed. What names and data put
        into it is escaped. An old file is replaced whole or not at all.

        Args:
            path: of the file.
            data: the data points that were measured, to show pictures of those with the largest gap. Rows `[H, W]`,
                `[1, H, W]` and `[3, H, W]` are images, in [0, 1] or of bytes; so are vectors, with a `shape`.
            shape: `(H, W)` of images that are given as vectors.
            gradients: from `ppvae.gradient_statistics`, to be shown too.

        Raises:
            ValueError: data of another number of data points, or of another shape.

        Example:
            >>> import tempfile, ppvae
            >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2).fit_guide()
            >>> report = ppvae.gap(pair, pair.sample(20), "quick", progress=False)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     report.to_html(f"{folder}/gap.html")
        """
        present("ledger to HTML", self, path=path, data=data, shape=shape, gradients=gradients)

    @checked
    def save(self, path: File) -> None:
        """Writes the report to a file, which replaces an old one whole or not at all."""
        write_record(self, path)

    @staticmethod
    @checked
    def load(path: File) -> "GapReport":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or holds something else.
        """
        return read_record(path, (GapReport, Evidence, Measurement, Sandwich, LatentUsage, LikelihoodScale))

    def __str__(self) -> str:
        return f"{figures(self.summary())}\n\n{self.verdict()}"

    def __repr__(self) -> str:
        lines = {"log p(x)": self.log_evidence, "ELBO": self.elbo, "gap": self.gap}
        told = ", ".join(f"{name} {line.mean().estimate:z.3f}" for name, line in lines.items())
        warning = f"; {self.elbo.warning}" if self.elbo.warning else ""
        return f"GapReport({self.pair}, {counted(len(self.elbo.estimate), 'data point')}: {told} nats{warning})"

    def _repr_html_(self) -> str:
        return present("notebook", self)
