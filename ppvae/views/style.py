"""One look for all pictures: colors that the color-blind tell apart, sizes for a talk, 200 dots an inch."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, without its yellow, which is hard to see on white."""

MARKERS = "osD^vPX"
GRAY = "#767676"
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "errorbar.capsize": 3,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
}
Plot = TypeVar("Plot", bound=Callable[..., Any])


def style() -> AbstractContextManager[None]:
    """The context in which all plots here draw: for figures of your own, and for saving them.

    The name of the file decides its format: `savefig("gap.svg")` writes SVG, `savefig("gap.png")` PNG at 200 dots an
    inch.

    Source: the colors are those of Okabe & Ito 2008, Color Universal Design.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> with style():
        ...     figure, ax = plt.subplots()
        >>> ax.spines["top"].get_visible()
        False
    """
    return mpl.rc_context(STYLE)


def styled(plot: Plot) -> Plot:
    """Makes a function draw in this style."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        with style():
            return plot(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def color(number: int) -> str:
    """The color of the n-th thing in a picture: fixed when drawn, where matplotlib looks up "C0" when it renders."""
    return COLORS[number % len(COLORS)]


def shown_once(figure: Figure) -> Figure:
    """A figure to return: a notebook shows what a cell returns, and once more each figure that is still open."""
    if "inline" in plt.get_backend():
        plt.close(figure)
    return figure
