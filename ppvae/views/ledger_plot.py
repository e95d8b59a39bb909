"""The ledger as a picture: the way from log p(x) down to the ELBO."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ppvae.arguments import checked
from ppvae.inference.ledger.registry import LINES, finest
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.records import Mean, Measurement
from ppvae.views.style import GRAY, shown_once, style, styled
from ppvae.wording import counted

LEAST_SPAN = 0.01  # nats that the way takes up at least, so that rounding does not fill the picture


@dataclass(frozen=True)
class Step:
    """A part of the gap, on the way down.

    Attributes:
        start: where it starts, in nats per data point.
        end: where it ends.
    """

    label: str
    color: str
    line: Measurement
    mean: Mean
    start: float
    end: float


def steps(report: GapReport) -> list[Step]:
    """The measured parts of the gap that have no measured parts themselves, in the order of the way down."""
    lines = finest(report)
    drawn = [(name, bar) for name in lines if (bar := LINES[name].bar) is not None]
    found, level = [], report.log_evidence.mean().estimate
    for name, bar in sorted(drawn, key=lambda each: each[1].place):
        mean = lines[name].mean()
        with style():
            found.append(Step(bar.label, to_hex(bar.color), lines[name], mean, level, level - mean.estimate))
        level -= mean.estimate
    return found


@checked
@styled
def ledger(report: GapReport) -> Figure:
    """The way from log p(x) down to the ELBO: each step's mean with its standard error, and its spread over the data.

    Right: medians, quartiles, whiskers to the 5th and 95th percentile, and the data points beyond.

    Args:
        report: from `ppvae.gap`.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> len(ledger(ppvae.gap(pair, pair.sample(20), "quick", progress=False)).axes)
        2
    """
    way = steps(report)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.5 * len(way) + 2.2), sharey=True, layout="constrained")
    _waterfall(left, report, way)
    for row, step in enumerate(way, start=1):
        box = right.boxplot(
            step.line.estimate.numpy(),
            positions=[row],
            orientation="horizontal",
            widths=0.5,
            whis=(5, 95),
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black", "lw": 1.5},
            flierprops={"ms": 2.5, "mew": 0, "mfc": step.color, "marker": "o"},
        )
        box["boxes"][0].set(facecolor=step.color, alpha=0.4)
    right.axvline(0, color=GRAY, lw=1, ls=":")
    right.set(xlabel="nats", title=f"each of the {counted(len(report.elbo.estimate), 'data point')}")
    right.locator_params(axis="x", nbins=6)
    right.tick_params(axis="y", length=0)
    return shown_once(figure)


def _waterfall(ax: Axes, report: GapReport, way: list[Step]) -> None:
    """A row for each step, its figure beside it, between the rows of both ends."""
    evidence, elbo = report.log_evidence.mean(), report.elbo.mean()
    for row, step in enumerate(way, start=1):
        ax.barh(row, step.end - step.start, left=step.start, color=step.color, height=0.6)
        ax.errorbar(step.end, row, xerr=step.mean.error, color="black", lw=1)
        ax.plot([step.end, step.end], [row, row + 1], color=GRAY, lw=0.8, ls=":")
    last = len(way) + 1
    ax.plot([evidence.estimate] * 2, [0, 1], color=GRAY, lw=0.8, ls=":")
    ax.plot([evidence.estimate, elbo.estimate], [0, last], "D", color="black", ms=6)
    ends = [("log p(x)", evidence), ("ELBO", elbo)]
    rows = [ends[0], *((step.label, step.mean) for step in way), ends[1]]
    for row, (_, mean) in enumerate(rows):
        said = f"{mean.estimate:z.2f} ± {mean.error:.2f}"
        weight = "bold" if row in (0, last) else "normal"
        ax.annotate(said, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10, weight=weight)
    ax.set_yticks(range(last + 1), [label for label, _ in rows])
    ax.set_ylim(last + 0.6, -0.6)
    ax.use_sticky_edges = False  # else nothing is left beside the outermost bars
    ax.margins(x=0.05)
    low, high = ax.get_xlim()
    wanting = max(0.0, LEAST_SPAN - (high - low)) / 2
    ax.set_xlim(low - wanting, high + wanting)
    ax.locator_params(axis="x", nbins=5)
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set(xlabel="nats per data point", title=f"{report.pair}: from log p(x) down to the ELBO")
