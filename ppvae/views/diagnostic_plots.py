"""Pictures of what `ppvae.calibration` and `ppvae.expected_coverage` found."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from ppvae.arguments import checked
from ppvae.inference.diagnostics.simulation_based_calibration import rank_counts
from ppvae.views.style import GRAY, color, shown_once, styled

MOST_PANELS = 12
LEAST_P = 1e-6  # below which a p-value's size says nothing more


@checked
@styled
def calibration(ds: xr.Dataset) -> Figure:
    """Histograms of ranks, a panel per quantity: at most twelve, the least uniform first.

    The gray band holds 99% of the counts that uniform ranks would have; the line is their expectation.

    Args:
        ds: from `ppvae.calibration`.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=3, num_latents=2)
        >>> len(calibration(ppvae.calibration(pair, num_simulations=100, progress=False)).axes)
        3
    """
    num = min(MOST_PANELS, ds.sizes["quantity"])
    worst = ds.isel(quantity=np.argsort(ds["p_value"].values, kind="stable")[:num])
    columns = min(4, num)
    rows = -(-num // columns)
    size = (2.6 * columns, 2.0 * rows + 0.8)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    counts, expected = rank_counts(worst["rank"].values, ds.attrs["num_samples"])
    edges = np.concatenate([[0.0], np.cumsum(expected)]) / ds.sizes["simulation"]
    low, high = stats.binom.interval(0.99, ds.sizes["simulation"], np.diff(edges))
    for ax, count, quantity in zip(grid.flat, counts, worst["quantity"].values, strict=False):
        of_one = worst.sel(quantity=quantity)
        ax.stairs(high, edges, baseline=low, fill=True, color=GRAY, alpha=0.25, lw=0)
        ax.stairs(expected, edges, baseline=None, color=GRAY, lw=1)
        ax.stairs(count, edges, baseline=None, color=color(0), lw=1.5)
        ax.set_title(f"{quantity}\n{_verdict(of_one['p_value'].item(), of_one['direction'].item())}", fontsize=9)
        ax.set(xlim=(0, 1), ylim=(0, None), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    for ax in grid.flat[num:]:
        ax.remove()
    for ax in grid.flat[num - columns : num]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("rank of the truth among draws from the guide / number of draws", fontsize=10)
    figure.supylabel("simulations", fontsize=10)
    if num < ds.sizes["quantity"]:
        figure.suptitle(f"the {num} least uniform of {ds.sizes['quantity']} quantities", fontsize=10)
    return shown_once(figure)


@checked
@styled
def expected_coverage(ds: xr.Dataset) -> Figure:
    """How often the guide's regions about each reference hold the truth, against how often they claim to.

    The gray band holds 99% of the shares that an exact guide would have at each level. Below it, regions are too small:
    the guide is overconfident.

    Args:
        ds: from `ppvae.expected_coverage`.

    Example:
        >>> import ppvae
        >>> pair = ppvae.models.LinearVAE(num_features=3, num_latents=2)
        >>> len(expected_coverage(ppvae.expected_coverage(pair, num_simulations=100, progress=False)).axes)
        1
    """
    figure, ax = plt.subplots(figsize=(4, 4), layout="constrained")
    level, num = ds["level"].values, ds.sizes["simulation"]
    low, high = stats.binom.interval(0.99, num, level)
    ax.fill_between(level, low / num, high / num, color=GRAY, alpha=0.25, lw=0)
    ax.plot(level, level, color=GRAY, lw=1)
    for row, reference in enumerate(ds["reference"].values):
        of_one = ds.sel(reference=reference)
        said = _verdict(of_one["p_value"].item(), of_one["direction"].item())
        ax.plot(level, of_one["coverage"], color=color(row), label=f"about the {reference}: {said}")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the guide's regions", ylabel="coverage of the truth", aspect=1)
    ax.legend(fontsize=8)
    return shown_once(figure)


def _verdict(p_value: float, direction: str) -> str:
    said = f"p = {p_value:.2g}" if p_value >= LEAST_P else f"p < {LEAST_P:g}"
    return f"{said}, draws {direction}" if direction else said
