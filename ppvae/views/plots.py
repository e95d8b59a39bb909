"""Pictures of data, densities, training, gaps and gradients, drawn on given matplotlib axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, overload

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ppvae.arguments import Count, Few, Real, Rows, Shape, checked
from ppvae.inference.evidence.curve import BoundCurve
from ppvae.inference.evidence.estimates import log_evidence
from ppvae.inference.evidence.pareto import FINITE_VARIANCE
from ppvae.inference.ledger.registry import LINES, finest
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.records import Evidence
from ppvae.inference.training.em import EMResult
from ppvae.inference.training.result import Fit
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape
from ppvae.rules import Elements, Entries, Instance, Number
from ppvae.views.diagnostic_plots import calibration as calibration, expected_coverage as expected_coverage
from ppvae.wording import shown

GRID_POINTS = 80
Limits = tuple[Real, Real, Real, Real]
GAPS = Entries(Instance(str), Instance(GapReport), at_least=1)
Curve = Fit | EMResult | Annotated[Any, Elements(Number(), at_least=1)]
"""Bounds per epoch or iteration, or a record that has them."""

NO_GAP = 1e-3  # nats below which a guide counts as exact


@checked
def images(ax: Axes, x: Rows, shape: Shape, columns: Few = 6) -> None:
    """A mosaic of images, gray or in color.

    Args:
        ax: where to draw.
        x: `[N, C * H * W]` in [0, 1]; values outside are clipped. N is a multiple of `columns`.
        shape: `(H, W)` or `(C, H, W)`, with one or three channels.
        columns: images per row.

    Raises:
        ValueError: images of another size or number of channels, or whose number is no multiple of `columns`.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> images(plt.figure().subplots(), torch.rand(12, 64), (8, 8))
    """
    if len(x) % columns or x[0].numel() != math.prod(shape):
        raise ValueError(
            f"x: found shape {list(x.shape)}, expected [N, {math.prod(shape)}] with N a multiple of {columns}, for "
            f"shape={tuple(shape)} and columns={columns}"
        )
    C = 1 if len(shape) == 2 else shape[0]
    if C not in (1, 3):
        raise ValueError(f"shape: found {C} channels, expected 1 or 3; show one at a time, x[:, :1]")
    tiles = x.detach().cpu().reshape(-1, columns, C, *shape[-2:]).clamp(0, 1)
    framed = torch.nn.functional.pad(1 - tiles if C == 1 else tiles, (1, 1, 1, 1), value=1.0)
    mosaic = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    ax.imshow(mosaic.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()


@checked
def label_tiles(ax: Axes, shape: Shape, columns: Mapping[float, str], rows: Mapping[float, str]) -> None:
    """Labels columns and rows of a mosaic of `images` by their numbers; a fractional number lies between two."""
    height, width = shape[-2] + 2, shape[-1] + 2
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks([(column + 0.5) * width - 0.5 for column in columns], labels=list(columns.values()))
    ax.set_yticks([(row + 0.5) * height - 0.5 for row in rows], labels=list(rows.values()))


@checked
def points(ax: Axes, x: Rows, limits: Limits) -> None:
    """A scatter of points `[N, 2]` within `limits` (left, right, bottom, top)."""
    if x.dim() != 2:
        raise ValueError(f"x: found shape {list(x.shape)}, expected [N, 2], points of the plane")
    refuse_shape(x, (2,))
    across, up = x.detach().cpu().numpy().T
    ax.scatter(across, up, s=2, color="black", alpha=0.4, linewidths=0)
    _square(ax, limits)


@checked
def density(ax: Axes, pair: Pair, limits: Limits, num_particles: Count = 200) -> None:
    """The density p(x) of a pair over a rectangle of the plane, exact or by importance weights.

    Args:
        ax: where to draw.
        pair: a pair over x in `[N, 2]`.
        limits: left, right, bottom, top.
        num_particles: K, where the density is not exact.
    """
    left, right, bottom, top = limits
    grid = torch.cartesian_prod(torch.linspace(left, right, GRID_POINTS), torch.linspace(bottom, top, GRID_POINTS))
    grid = grid.to(next(pair.parameters()))
    try:
        found = log_evidence(pair, grid, "exact")
    except NotImplementedError:
        found = log_evidence(pair, grid, "iwae", num_particles, seed=0)
    picture = found.estimate.exp().reshape(GRID_POINTS, GRID_POINTS).T.numpy()
    ax.imshow(picture, origin="lower", extent=limits, cmap="Blues", vmin=0, aspect="auto")
    _square(ax, limits)


def _square(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    ax.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[])
    ax.set_box_aspect(1)


@checked
def bounds(ax: Axes, gaps: Annotated[Mapping[str, GapReport], GAPS]) -> None:
    """Evidence (a dot) and ELBO (a bar) of each pair, joined by the gap, with standard errors over data points.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data; the n-th in matplotlib's n-th color, as in all pictures here.
    """
    for row, gap in enumerate(gaps.values()):
        evidence, elbo, color = gap.log_evidence.mean(), gap.elbo.mean(), f"C{row}"
        ax.plot([elbo.estimate, evidence.estimate], [row, row], color=color, lw=4, alpha=0.4)
        ax.errorbar(evidence.estimate, row, xerr=evidence.std_error, fmt="o", color=color, capsize=3)
        ax.plot(elbo.estimate, row, "|", color=color, ms=14, mew=2)
        label = f"gap {abs(gap.mean().estimate):.2f}"
        ax.annotate(label, (elbo.estimate, row), (0, 9), textcoords="offset points", ha="center", color=color)
    ax.set(ylim=(len(gaps) - 0.5, -0.8), yticks=range(len(gaps)), yticklabels=gaps, xlabel="nats per data point")
    ax.locator_params(axis="x", nbins=6)
    ax.margins(x=0.12)


@checked
def gap_distribution(ax: Axes, gaps: Annotated[Mapping[str, GapReport], GAPS]) -> None:
    """Histograms of the gap over data points, for each pair whose guide leaves one; the outermost bins hold the tails.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data.
    """
    values = [gap.gap.estimate.numpy() for gap in gaps.values()]
    low, high = np.quantile(np.concatenate(values), [0.005, 0.99])
    bins = np.linspace(min(low, 0.0), max(high, NO_GAP), 40).tolist()
    for row, (name, value) in enumerate(zip(gaps, values, strict=True)):
        if np.abs(value).max() > NO_GAP:
            clipped, color = value.clip(bins[0], bins[-1]), f"C{row}"
            ax.hist(clipped, bins, histtype="stepfilled", color=color, alpha=0.3)
            ax.hist(clipped, bins, histtype="step", color=color, label=name)
    ax.set(xlabel="gap per data point [nats]", ylabel="data points")


@checked
def bound_curve(ax: Axes, curve: BoundCurve, evidence: Evidence | None = None) -> None:
    """The mean IWAE(K) against K, the line in 1/K through the two largest K, and its limit.

    Bands extend one Monte Carlo error to either side. A line that misses the points to its left shows that the 1/K law
    does not hold yet. The legend says for what share of the data points it cannot hold (k-hat > 1/2).

    Args:
        ax: where to draw.
        curve: from `ppvae.bound_curve`.
        evidence: of the same data by other means, such as `ppvae.log_evidence(pair, data, "ais")`.

    Raises:
        ValueError: evidence of another number of data points.

    Example:
        >>> import matplotlib.pyplot as plt, ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2)
        >>> bound_curve(plt.figure().subplots(), ppvae.bound_curve(pair, pair.sample(20), [1, 10]))
    """
    if evidence is not None and len(evidence.estimate) != len(curve.khat):
        raise ValueError(
            f"evidence: found {len(evidence.estimate)} data points, expected the {len(curve.khat)} of the curve"
        )
    K = curve.num_particles
    means = [bound.mean() for bound in curve.bounds]
    estimates, limit = [mean.estimate for mean in means], curve.limit.mean()
    ax.errorbar(K, estimates, [m.monte_carlo_error for m in means], fmt="o", color="C0", capsize=3, label="IWAE(K)")
    heavy = (curve.khat > FINITE_VARIANCE).double().mean().item()
    lines = [(limit, "C0", f"limit in 1/K (k-hat > 1/2: {heavy:.0%})")]
    if evidence is not None:
        lines.append((evidence.mean(), "C1", evidence.method))
    grid = np.geomspace(K[0], 10 * K[-1], 200)
    ax.plot(grid, limit.estimate - (limit.estimate - estimates[-1]) * K[-1] / grid, "--", color="C0", lw=1)
    for mean, color, label in lines:
        error = mean.monte_carlo_error
        ax.axhspan(mean.estimate - error, mean.estimate + error, color=color, alpha=0.25, lw=0)
        ax.axhline(mean.estimate, color=color, lw=1, label=f"{mean.estimate:.2f} ± {error:.2f}, {label}")
    low, high = min(estimates), max([*estimates, *(mean.estimate for mean, _, _ in lines)])
    margin = 0.1 * (high - low)
    ax.set(xscale="log", xlim=(K[0] / 1.5, 10 * K[-1]), ylim=(low - margin, high + margin))
    ax.set(xlabel="particles K", ylabel="nats per data point")
    ax.set_xticks(K, labels=[str(k) for k in K])
    ax.minorticks_off()
    ax.legend(loc="lower right", fontsize=9)


@overload
def training(ax: Axes, curves: Curve | Mapping[str, Curve], /) -> None: ...
@overload
def training(ax: Curve | Mapping[str, Curve], /) -> None: ...
@checked
def training(ax: Axes | Curve | Mapping[str, Curve], curves: Curve | Mapping[str, Curve] | None = None) -> None:
    """Bounds over training, each run's length scaled to one so that EM and SVI fit the same axis.

    `training(curves)` draws into a new figure.

    Args:
        ax: where to draw.
        curves: what `ppvae.fit` or `ppvae.fit_em` returned, or the bound per epoch or iteration, in nats per data
            point; one, or several by name.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2)
        >>> training(ppvae.fit(pair, pair.sample(20), epochs=3, progress=False))
    """
    given: Any = curves if isinstance(ax, Axes) else ax
    named = given if isinstance(given, Mapping) else {"": given}
    bounds = {name: _bounds(curve) for name, curve in named.items()}
    if not any(curve.size for curve in bounds.values()):
        raise ValueError(f"curves: found {shown(given)} without any bound, expected one curve or more")
    if not isinstance(ax, Axes):
        ax = plt.figure().subplots()
    for row, (name, curve) in enumerate(bounds.items()):
        ax.plot(np.linspace(0, 1, len(curve) + 1)[1:], curve, color=f"C{row}", label=name or None)
    settled = np.concatenate([curve[len(curve) // 20 :] for curve in bounds.values()])
    settled = settled[np.isfinite(settled)]
    low = np.quantile(settled, 0.02)
    ax.set_ylim(low, settled.max() + 0.05 * (settled.max() - low) + 1e-6)
    ax.set(xlabel="fraction of training", ylabel="bound on training data [nats]")


def _bounds(curve: Any) -> np.ndarray:
    if isinstance(curve, Fit):
        return curve.history["bound"]
    history = curve.history if isinstance(curve, EMResult) else curve
    return np.asarray([] if history is None else history, dtype=float)


@checked
def gradient_statistics(ds: xr.Dataset, axes: Sequence[Axes] | None = None) -> Figure:
    """Signal-to-noise ratio of each gradient against K, a panel per group of parameters; dotted: slopes 1/2 and -1/2.

    Bars are standard errors. In the gray region, below `1 / sqrt(repeats)`, signals are hard to tell from noise;
    signals not seen at all are left out.

    Args:
        ds: from `ppvae.gradient_statistics`.
        axes: one for each group; a new figure if not given.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2)
        >>> ds = ppvae.gradient_statistics(pair, torch.randn(4, 5), [ppvae.IWAE()], [1, 4], repeats=16, progress=False)
        >>> len(gradient_statistics(ds).axes)
        2
    """
    if axes is None:
        _, grid = plt.subplots(1, ds.sizes["group"], figsize=(4.5 * ds.sizes["group"], 4), squeeze=False, sharey=True)
        axes = list(grid[0])
    if len(axes) != ds.sizes["group"]:
        raise ValueError(f"axes: found {len(axes)}, expected {ds.sizes['group']}, one for each group")
    K = ds["num_particles"].values
    for ax, group in zip(axes, ds["group"].values, strict=True):
        of_group = ds.sel(group=group)
        for row, name in enumerate(ds["objective"].values):
            snr, std_error = (of_group[v].sel(objective=name).values for v in ("snr", "snr_std_error"))
            seen = snr > 0
            ax.errorbar(K[seen], snr[seen], std_error[seen], color=f"C{row}", marker="o", ms=4, capsize=2, label=name)
        _reference_slopes(ax, K, of_group["snr"].values)
        ax.axhspan(0, ds["snr_noise_floor"].item(), color="gray", alpha=0.15, lw=0)
        ax.set_title(f"gradient of {group}")
        log_axes(ax, K)
    axes[0].set_ylabel("signal-to-noise ratio")
    figure = axes[0].get_figure()
    assert isinstance(figure, Figure)
    return figure


@checked
def log_axes(ax: Axes, K: np.ndarray) -> None:
    """Logarithmic axes of something against K, labeled in plain numbers."""
    ax.set(xscale="log", yscale="log", xlabel="particles K")
    ax.set_xticks(K, labels=[str(k) for k in K])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _reference_slopes(ax: Axes, K: np.ndarray, snr: np.ndarray) -> None:
    """Dotted lines of slope 1/2 and -1/2 through the median ratio at the first K, over the range of K."""
    start = np.nanmedian(np.where(snr > 0, snr, np.nan)[:, 0])
    for slope in (0.5, -0.5):
        ax.plot(K, start * (K / K[0]) ** slope, ":", color="gray", lw=1, zorder=0)


@checked
def ledger(report: GapReport) -> Figure:
    """The way from log p(x) down to the ELBO: each step's mean with its standard error, and its spread over the data.

    Args:
        report: from `ppvae.gap`.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2).fit_guide()
        >>> len(ledger(ppvae.gap(pair, pair.sample(20), "quick", progress=False)).axes)
        2
    """
    lines = report.lines()
    bars = {name: bar for name in finest(report) if (bar := LINES[name].bar) is not None}
    bars = dict(sorted(bars.items(), key=lambda item: item[1].place))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.55 * len(bars) + 2), sharey=True, layout="constrained")
    level = report.log_evidence.mean().estimate
    left.axvline(level, color="gray", lw=1, ls=":")
    for row, (name, bar) in enumerate(bars.items(), start=1):
        mean = lines[name].mean()
        left.barh(row, -mean.estimate, left=level, color=bar.color, height=0.6, alpha=0.8)
        level -= mean.estimate
        left.errorbar(level, row, xerr=mean.std_error, color="black", capsize=3, lw=1)
        left.annotate(
            f" {mean.estimate:.2f}", (level, row), (-8, 0), textcoords="offset points", ha="right", va="center"
        )
        right.boxplot(
            lines[name].estimate.numpy(), positions=[row], orientation="horizontal", widths=0.5, flierprops={"ms": 2}
        )
    for row, end in ((0, report.log_evidence.mean()), (len(bars) + 1, report.elbo.mean())):
        left.errorbar(end.estimate, row, xerr=end.std_error, fmt="o", color="black", capsize=3)
    left.set_yticks(range(len(bars) + 2), ["log p(x)", *(bar.label for bar in bars.values()), "ELBO"])
    left.invert_yaxis()
    left.set(xlabel="nats per data point", title=report.pair)
    left.margins(x=0.15)
    right.axvline(0, color="gray", lw=1, ls=":")
    right.set(xlabel="nats, over data points", title="each data point")
    return figure
