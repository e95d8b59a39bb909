"""Pictures of data, densities, training and gaps, each on a given matplotlib axis."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ppvae.inference.evidence import log_evidence
from ppvae.pair import Pair

if TYPE_CHECKING:
    from ppvae.inference.records import Gap

GRID_POINTS = 80


def images(ax: Axes, x: Tensor, shape: tuple[int, int], columns: int = 6) -> None:
    """A mosaic of gray images.

    Args:
        ax: where to draw.
        x: `[N, H * W]` in [0, 1]; values outside are clipped. N should be a multiple of `columns`.
        shape: `(H, W)`.
        columns: images per row.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> images(plt.figure().subplots(), torch.rand(12, 64), (8, 8))
    """
    tiles = x.detach().cpu().reshape(-1, columns, *shape).clamp(0, 1)
    framed = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=1.0)
    mosaic = framed.permute(0, 2, 1, 3).reshape(framed.shape[0] * framed.shape[2], -1)
    ax.imshow(1 - mosaic, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()


def points(ax: Axes, x: Tensor, limits: tuple[float, float, float, float]) -> None:
    """A scatter of points `[N, 2]` within `limits` (left, right, bottom, top)."""
    ax.scatter(*x.detach().cpu().T, s=2, color="black", alpha=0.4, linewidths=0)
    _square(ax, limits)


def density(
    ax: Axes, pair: Pair, limits: tuple[float, float, float, float], num_particles: int = 200, vmax: float | None = None
) -> None:
    """The density p(x) of a pair over a rectangle of the plane, exact or by importance weights.

    Args:
        ax: where to draw.
        pair: a pair over x in `[N, 2]`.
        limits: left, right, bottom, top.
        num_particles: K, where the density is not exact.
        vmax: density shown as the darkest; the highest on the grid if not given.
    """
    left, right, bottom, top = limits
    grid = torch.cartesian_prod(torch.linspace(left, right, GRID_POINTS), torch.linspace(bottom, top, GRID_POINTS))
    grid = grid.to(next(pair.parameters()))
    estimate = log_evidence(pair, grid, num_particles=num_particles, seed=0, progress=False).estimate
    picture = estimate.exp().reshape(GRID_POINTS, GRID_POINTS).T
    ax.imshow(picture, origin="lower", extent=limits, cmap="Blues", vmin=0, vmax=vmax, aspect="auto")
    _square(ax, limits)


def _square(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    ax.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[])
    ax.set_box_aspect(1)


def bounds(ax: Axes, gaps: Mapping[str, "Gap"]) -> None:
    """Evidence and ELBO of each pair as dots joined by the gap, with standard errors over data points.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data.
    """
    for height, (name, gap) in enumerate(reversed(gaps.items())):
        evidence, elbo = gap.log_evidence.mean(), gap.elbo.mean()
        ax.plot([elbo.estimate, evidence.estimate], [height, height], color="tab:red", lw=3, alpha=0.5, zorder=1)
        ax.errorbar(evidence.estimate, height, xerr=evidence.std_error, fmt="o", color="tab:blue", capsize=3)
        ax.plot(elbo.estimate, height, "|", color="tab:red", ms=12, mew=2)
        ax.annotate(
            f"{gap.mean().estimate:.2f}",
            (elbo.estimate, height),
            (-6, 6),
            textcoords="offset points",
            ha="right",
            color="tab:red",
        )
        ax.annotate(name, (0, height), (6, 9), xycoords=("axes fraction", "data"), textcoords="offset points")
    ax.set(ylim=(-0.6, len(gaps) - 0.2), yticks=[], xlabel="nats per data point")
    ax.margins(x=0.15)


def gap_distribution(ax: Axes, gaps: Mapping[str, "Gap"]) -> None:
    """Histograms over data points of the gap of each pair whose guide leaves one.

    Args:
        ax: where to draw.
        gaps: by name, from `ppvae.gap` on the same data.
    """
    values = {name: gap.gap.estimate.cpu().numpy() for name, gap in gaps.items()}
    top = max(np.quantile(v, 0.99) for v in values.values())
    bins = np.linspace(min(0.0, min(np.quantile(v, 0.01) for v in values.values())), max(top, 1e-3), 40)
    for name, v in values.items():
        if np.abs(v).max() > 1e-3:
            ax.hist(v.clip(bins[0], bins[-1]), bins, histtype="stepfilled", alpha=0.5, label=name)
    ax.set(xlabel="gap per data point [nats]", ylabel="data points")
    if ax.has_data():
        ax.legend(frameon=False)


def training(ax: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Bounds over training, each run's length scaled to one so that EM and SVI fit the same axis.

    Args:
        ax: where to draw.
        curves: the bound per epoch or iteration, in nats per data point, by name.
    """
    for name, curve in curves.items():
        ax.plot(np.linspace(0, 1, len(curve) + 1)[1:], curve, label=name)
    settled = np.concatenate([np.asarray(curve)[len(curve) // 20 :] for curve in curves.values()])
    ax.set_ylim(np.quantile(settled, 0.02), settled.max() + 0.05 * np.ptp(settled))
    ax.set(xlabel="fraction of training", ylabel="bound on training data [nats]")
    ax.legend(frameon=False)
