"""Pictures of data, densities, training, gaps and gradients, drawn on given matplotlib axes."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, cast, overload

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppvae.arguments import Count, Few, Real, Rows, Shape, checked
from ppvae.conversion import to_pair
from ppvae.inference.evidence.curve import BoundCurve
from ppvae.inference.evidence.estimates import log_evidence
from ppvae.inference.evidence.pareto import FINITE_VARIANCE
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.records import Evidence
from ppvae.inference.training.em import EMResult
from ppvae.inference.training.result import Fit
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape
from ppvae.rules import Elements, Entries, Instance, Number
from ppvae.views.diagnostic_plots import calibration as calibration, expected_coverage as expected_coverage
from ppvae.views.gradient_plots import gradient_statistics as gradient_statistics, log_axes as log_axes
from ppvae.views.ledger_plot import ledger as ledger
from ppvae.views.style import color, style as style, styled
from ppvae.wording import shown

GRID_POINTS = 80
Limits = tuple[Real, Real, Real, Real]
GAPS = Entries(Instance(str), Instance(GapReport), at_least=1)
Curve = Fit | EMResult | Annotated[Any, Elements(Number(), at_least=1)]
"""Bounds per epoch or iteration, or a record that has them."""

NO_GAP = 1e-3  # nats below which a guide counts as exact


@checked
@styled
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
@styled
def label_tiles(ax: Axes, shape: Shape, columns: Mapping[float, str], rows: Mapping[float, str]) -> None:
    """Labels columns and rows of a mosaic of `images` by their numbers; a fractional number lies between two."""
    height, width = shape[-2] + 2, shape[-1] + 2
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks([(column + 0.5) * width - 0.5 for column in columns], labels=list(columns.values()))
    ax.set_yticks([(row + 0.5) * height - 0.5 for row in rows], labels=list(rows.values()))


@checked
@styled
def points(ax: Axes, x: Rows, limits: Limits) -> None:
    """A scatter of points `[N, 2]` within `limits` (left, right, bottom, top)."""
    if x.dim() != 2:
        raise ValueError(f"x: found shape {list(x.shape)}, expected [N, 2], points of the plane")
    refuse_shape(x, (2,))
    across, up = x.detach().cpu().numpy().T
    ax.scatter(across, up, s=2, color="black", alpha=0.4, linewidths=0)
    _square(ax, limits)


@checked
@styled
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
    grid = cast(torch.Tensor, to_pair(grid, pair))
    try:
        found = log_evidence(pair, grid, "exact")
    except NotImplementedError:
        found = log_evidence(pair, grid, "iwae", num_particles, seed=0)
    picture = found.estimate.exp().reshape(GRID_POINTS, GRID_POINTS).T.numpy()
    ax.imshow(picture, origin="lower", extent=limits, cmap="Blues", vmin=0, aspect="auto")
    _square(ax, limits)


def _square(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    ax.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.set_box_aspect(1)


@checked
@styled
def bounds(ax: Axes, gaps: Annotated[Mapping[str, GapReport], GAPS]) -> None:
    """Evidence (a dot) and ELBO (a bar) of each pair, joined by the gap.

    All are measured on the same data points, so what tells two pairs apart is the error of their difference, not that
    of each mean: the whiskers are the standard error of the difference from the largest evidence, which has none. The
    gap, with its standard error over data points, is written above.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data; the n-th in the n-th color, as in all pictures here.

    Raises:
        ValueError: reports of unlike numbers of data points.
    """
    sizes = {name: len(gap.elbo.estimate) for name, gap in gaps.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"gaps: found reports of {sizes} data points, expected the same data points in all")
    best = max((gap.log_evidence for gap in gaps.values()), key=lambda evidence: evidence.mean().estimate)
    for row, gap in enumerate(gaps.values()):
        evidence, elbo, apart = gap.log_evidence.mean(), gap.elbo.mean(), gap.mean()
        behind = best.estimate - gap.log_evidence.estimate
        error = behind.std().item() / len(behind) ** 0.5 if behind.any() else 0.0
        ax.plot([elbo.estimate, evidence.estimate], [row, row], color=color(row), lw=5, alpha=0.4)
        if error:
            ax.errorbar(evidence.estimate, row, xerr=error, color=color(row))
        ax.plot(evidence.estimate, row, "o", color=color(row), ms=7)
        ax.plot(elbo.estimate, row, "|", color=color(row), ms=14, mew=2.5)
        label = f"gap {apart.estimate:z.2f} ± {apart.error:.2f}"
        middle = (elbo.estimate + evidence.estimate) / 2
        ax.annotate(label, (middle, row), (0, 9), textcoords="offset points", ha="center", color=color(row))
    ax.set(ylim=(len(gaps) - 0.5, -0.8), yticks=range(len(gaps)), yticklabels=gaps)
    ax.set_xlabel("nats per data point\nwhiskers: error of the difference from the best")
    ax.locator_params(axis="x", nbins=5)
    ax.margins(x=0.22)  # with room for the labels


@checked
@styled
def gap_distribution(ax: Axes, gaps: Annotated[Mapping[str, GapReport], GAPS]) -> None:
    """Histograms of the gap over data points, for each pair whose guide leaves one.

    The outermost bins hold the tails, and say so where there are any. `ax.legend()` names the pairs.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data.
    """
    values = [gap.gap.estimate.numpy() for gap in gaps.values()]
    everything = np.concatenate(values)
    low, high = np.quantile(everything, [0.005, 0.99])
    bins = np.linspace(min(low, 0.0), max(high, NO_GAP), 40).tolist()
    highest = {0: 0, -1: 0}  # data points in the first and in the last bin
    for row, (name, value) in enumerate(zip(gaps, values, strict=True)):
        if np.abs(value).max() > NO_GAP:
            clipped = value.clip(bins[0], bins[-1])
            ax.hist(clipped, bins, histtype="stepfilled", color=color(row), alpha=0.3)
            heights, *_ = ax.hist(clipped, bins, histtype="step", lw=1.5, color=color(row), label=name)
            highest = {end: max(height, int(np.max(heights[end]))) for end, height in highest.items()}
    tails = {
        -1: (everything.max() > bins[-1] + NO_GAP, "and more"),
        0: (everything.min() < bins[0] - NO_GAP, "and less"),
    }
    for end, (has_tail, said) in tails.items():
        if has_tail:
            at = (bins[end], highest[end])
            ax.annotate(f"{bins[end]:.3g} {said}", at, (0, 5), textcoords="offset points", rotation=90, ha="center")
    ax.set(xlabel="gap per data point [nats]", ylabel="data points")


@checked
@styled
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
    ax.errorbar(K, estimates, [m.monte_carlo_error for m in means], fmt="o", color=color(0), label="IWAE(K)")
    heavy = (curve.khat > FINITE_VARIANCE).double().mean().item()
    lines = [(limit, color(0), f"limit in 1/K (k-hat > 1/2: {heavy:.0%})")]
    if evidence is not None:
        lines.append((evidence.mean(), color(1), evidence.method))
    grid = np.geomspace(K[0], 10 * K[-1], 200)
    ax.plot(grid, limit.estimate - (limit.estimate - estimates[-1]) * K[-1] / grid, "--", color=color(0), lw=1)
    for mean, hue, label in lines:
        error = mean.monte_carlo_error
        ax.axhspan(mean.estimate - error, mean.estimate + error, color=hue, alpha=0.25, lw=0)
        ax.axhline(mean.estimate, color=hue, lw=1, label=f"{mean.estimate:z.2f} ± {error:.2f}, {label}")
    low, high = min(estimates), max([*estimates, *(mean.estimate for mean, _, _ in lines)])
    margin = 0.1 * (high - low)
    ax.set(xscale="log", xlim=(K[0] / 1.5, 10 * K[-1]), ylim=(low - margin, high + margin))
    ax.set(xlabel="particles K", ylabel="nats per data point")
    ax.set_xticks(K, labels=[str(k) for k in K])
    ax.minorticks_off()
    ax.legend(loc="lower right")


@overload
def training(ax: Axes, curves: Curve | Mapping[str, Curve], /) -> Figure: ...
@overload
def training(ax: Curve | Mapping[str, Curve], /) -> Figure: ...
@checked
@styled
def training(ax: Axes | Curve | Mapping[str, Curve], curves: Curve | Mapping[str, Curve] | None = None) -> Figure:
    """Bounds over training, each run's length scaled to one so that EM and SVI fit the same axis.

    `training(curves)` draws into a new figure, with a legend. Bounds on held-out data, where `ppvae.fit` was given
    some, are dashed.

    Args:
        ax: where to draw.
        curves: what `ppvae.fit` or `ppvae.fit_em` returned, or the bound per epoch or iteration, in nats per data
            point; one, or several by name.

    Returns:
        The figure that holds `ax`.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2)
        >>> figure = training(ppvae.fit(pair, pair.sample(20), epochs=3, progress=False))
        >>> figure.axes[0].get_ylabel()
        'bound on training data [nats]'
    """
    given: Any = curves if isinstance(ax, Axes) else ax
    named = given if isinstance(given, Mapping) else {"": given}
    bounds = {name: _bounds(curve) for name, curve in named.items()}
    if not any(curve.size for curve in bounds.values()):
        raise ValueError(f"curves: found {shown(given)} without any bound, expected one curve or more")
    held_out = {name: found for name, curve in named.items() if len(found := _held_out(curve))}
    alone = not isinstance(ax, Axes)
    if not isinstance(ax, Axes):
        ax = plt.figure().subplots()
    for row, (name, curve) in enumerate(bounds.items()):
        ax.plot(_done(curve), curve, color=color(row), label=name or ("training" if held_out else None))
        if name in held_out:
            label = f"{name}, held out" if name else "held out"
            ax.plot(_done(held_out[name]), held_out[name], "--", color=color(row), label=label)
    settled = np.concatenate([curve[len(curve) // 20 :] for curve in [*bounds.values(), *held_out.values()]])
    settled = settled[np.isfinite(settled)]
    low = np.quantile(settled, 0.02)
    ax.set_ylim(low, settled.max() + 0.05 * (settled.max() - low) + 1e-6)
    ax.set(xlabel="fraction of training", ylabel="bound [nats]" if held_out else "bound on training data [nats]")
    if alone and ax.get_legend_handles_labels()[0]:
        ax.legend()
    return cast(Figure, ax.get_figure(root=True))


def _done(curve: np.ndarray) -> np.ndarray:
    """The share of training that was done at each entry."""
    return np.linspace(0, 1, len(curve) + 1)[1:]


def _held_out(curve: Any) -> np.ndarray:
    return curve.history.get("held_out", np.empty(0)) if isinstance(curve, Fit) else np.empty(0)


def _bounds(curve: Any) -> np.ndarray:
    if isinstance(curve, Fit):
        return curve.history["bound"]
    history = curve.history if isinstance(curve, EMResult) else curve
    return np.asarray([] if history is None else history, dtype=float)
