"""Pictures of what `ppvae.gradient_statistics` found."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ppvae.arguments import checked
from ppvae.views.style import GRAY, MARKERS, color, shown_once, styled

APART = 1.12
"""The factor on K by which neighboring curves are drawn apart, so that equal ones are all seen."""


@checked
@styled
def gradient_statistics(ds: xr.Dataset, axes: Sequence[Axes] | None = None) -> Figure:
    """Signal-to-noise ratio of each gradient against K, a panel per group of parameters.

    Bars are standard errors. Curves are drawn a little apart, so that equal ones are all seen. Dotted lines have slopes
    1/2 and -1/2. In the gray region, below `1 / sqrt(repeats)`, signals are hard to tell from noise; signals not seen
    at all are left out. A new figure has a legend; axes of your own have its entries.

    Args:
        ds: from `ppvae.gradient_statistics`.
        axes: one for each group; a new figure if not given.

    Example:
        >>> import ppvae, torch
        >>> pair = ppvae.models.LinearVAE(num_features=5, num_latents=2)
        >>> ds = ppvae.gradient_statistics(pair, torch.randn(4, 5), [ppvae.IWAE()], [1, 4], repeats=16, progress=False)
        >>> len(gradient_statistics(ds).axes)
        2
    """
    is_new = axes is None
    if axes is None:
        num = ds.sizes["group"]
        _, grid = plt.subplots(1, num, figsize=(4.5 * num, 4.4), squeeze=False, sharey=True, layout="constrained")
        axes = list(grid[0])
    if len(axes) != ds.sizes["group"]:
        raise ValueError(f"axes: found {len(axes)}, expected {ds.sizes['group']}, one for each group")
    K = ds["num_particles"].values
    for ax, group in zip(axes, ds["group"].values, strict=True):
        of_group = ds.sel(group=group)
        names = ds["objective"].values
        for row, name in enumerate(names):
            snr, std_error = (of_group[v].sel(objective=name).values for v in ("snr", "snr_std_error"))
            seen, at = snr > 0, K * APART ** (row - (len(names) - 1) / 2)
            ax.errorbar(at[seen], snr[seen], std_error[seen], color=color(row), marker=MARKERS[row % 7], label=name)
        _reference_slopes(ax, K, of_group["snr"].values)
        ax.axhspan(0, ds["snr_noise_floor"].item(), color=GRAY, alpha=0.2, lw=0, label="too noisy to see")
        ax.set_title(f"gradient of {group}")
        log_axes(ax, K)
    axes[0].set_ylabel("signal-to-noise ratio")
    figure = axes[0].get_figure()
    assert isinstance(figure, Figure)
    if is_new:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        shown_once(figure)
    return figure


@checked
@styled
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
    for slope, label in ((0.5, "slopes 1/2 and -1/2"), (-0.5, None)):
        ax.plot(K, start * (K / K[0]) ** slope, ":", color=GRAY, lw=1.2, zorder=0, label=label)
