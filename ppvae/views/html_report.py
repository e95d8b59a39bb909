"""The ledger as one HTML file that needs no network: to read, to keep, to mail."""

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ppvae._version import __version__
from ppvae.files import check_target, write_file
from ppvae.inference.ledger.report import GapReport
from ppvae.inference.runtime.records import Mean
from ppvae.views.elements import Content, Element, element, figure, histogram, table, written
from ppvae.views.html_points import worst_points
from ppvae.views.ledger_plot import LEAST_SPAN, Step, steps
from ppvae.views.notebook import ERRORS
from ppvae.views.style import COLORS
from ppvae.wording import counted

KHAT = ((0.5, "finite variance"), (0.7, "usable"), (np.inf, "not usable"))
"""Upper ends of the ranges of k-hat, and what weights are there (Vehtari et al. 2024)."""


def write_html(
    report: GapReport, path: str | Path, data: Any, shape: tuple[int, int] | None, gradients: xr.Dataset | None
) -> None:
    """Writes the page of a report; see `GapReport.to_html`."""
    check_target(path)
    tree = page(report, data, shape, gradients)
    write_file(path, f"<!DOCTYPE html>\n{written(tree)}\n".encode())


def page(report: GapReport, data: Any, shape: tuple[int, int] | None, gradients: xr.Dataset | None) -> Element:
    """The whole document."""
    num = len(report.elbo.estimate)
    sections = {
        "What it says": _verdict(report),
        "From log p(x) down to the ELBO": _waterfall(report),
        "Each data point": _distributions(report),
        "The data points with the largest gap": worst_points(report, data, shape),
        "How log p(x) was measured": _evidence(report),
        "All lines": [_summary(report)],
        "Layers": _layers(report),
        "Likelihood": _likelihood(report),
        "Noise of the gradients": [] if gradients is None else _gradients(gradients),
        "Settings and versions": _settings(report),
    }
    told = [part for title, parts in sections.items() if parts for part in (element("h2", title), *parts)]
    title = f"Why is the ELBO of {report.pair} low?"
    size = counted(num, "data point")
    about = f"{size}; nats per data point, higher is better; ± one standard error over data points"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", resources.files("ppvae.views").joinpath("report.css").read_text("utf-8")),
    ]
    body = [element("h1", title), element("p", about, class_="quiet"), _ends(report), *told]
    footer = element("footer", f"Written by ppvae {__version__}. ", "Gap: log p(x) - ELBO.")
    return element("html", element("head", *head), element("body", *body, footer), lang="en")


def _ends(report: GapReport) -> Element:
    means = {"log p(x)": report.log_evidence.mean(), "ELBO": report.elbo.mean(), "gap": report.mean()}
    cards = [
        element("div", name, element("strong", f"{mean.estimate:z.2f}"), element("span", f"± {mean.error:.2f}"))
        for name, mean in means.items()
    ]
    return element("div", *cards, class_="cards ends")


def _verdict(report: GapReport) -> list[Element]:
    """Its sentences as paragraphs, and the causes as a list."""
    parts: list[Element] = []
    for line in report.verdict().replace("+-", "±").splitlines():
        if not line.startswith("- "):
            parts.append(element("p", line))
            continue
        if not parts or parts[-1].tag != "ul":
            parts.append(element("ul"))
        name, _, said = line.removeprefix("- ").partition(": ")
        parts[-1].append(element("li", element("strong", name), f": {said}"))
    return parts


def _waterfall(report: GapReport) -> list[Element]:
    """A row for each step, on one scale for all."""
    way, evidence, elbo = steps(report), report.log_evidence.mean(), report.elbo.mean()
    reached = [end for step in way for end in (step.start, step.end - step.mean.error, step.end + step.mean.error)]
    low, high = min([*reached, elbo.estimate]), max([*reached, evidence.estimate])
    margin = 0.02 * max(high - low, LEAST_SPAN)
    low, high = low - margin, high + margin

    def percent(nats: float) -> str:
        return f"{100 * (nats - low) / (high - low):.3f}%"

    def span(start: float, end: float) -> str:
        left, right = sorted((start, end))
        return f"left:{percent(left)};width:{100 * (right - left) / (high - low):.3f}%"

    def row(label: str, mean: Mean, *marks: Element) -> list[Element]:
        number = element("span", f"{mean.estimate:z.2f} ± {mean.error:.2f}", class_="number")
        return [element("span", label), number, element("div", *marks, class_="track")]

    def end(mean: Mean) -> Element:
        return element("div", class_="end", style=f"left:{percent(mean.estimate)}")

    rows = row("log p(x)", evidence, end(evidence))
    for step in way:
        bar = element("div", class_=f"bar {_color_class(step)}", style=span(step.start, step.end))
        ends = step.end - step.mean.error, step.end + step.mean.error
        rows += row(step.label, step.mean, bar, element("div", class_="whisker", style=span(*ends)))
    rows += row("ELBO", elbo, end(elbo))
    scale = element("div", element("span", f"{low:z.2f}"), element("span", f"{high:z.2f} nats"), class_="scale")
    rows += [element("span"), element("span"), scale]
    return [element("div", *rows, class_="way")]


def _color_class(step: Step) -> str:
    return f"C{COLORS.index(step.color.upper())}" if step.color.upper() in COLORS else ""


def _distributions(report: GapReport) -> list[Element]:
    """A histogram of the gap and of each of its parts over the data points."""
    shown: list[tuple[str, str, Tensor]] = [
        ("log p(x)", "", report.log_evidence.estimate),
        ("gap", "", report.gap.estimate),
    ]
    shown += [(step.label, _color_class(step), step.line.estimate) for step in steps(report) if step.label != "gap"]
    cards = [_histogram(label, values.numpy(), color) for label, color, values in shown if values.isfinite().any()]
    return [element("div", *cards, class_="cards")]


def _histogram(title: str, values: np.ndarray, class_: str = "") -> Element:
    values = values[np.isfinite(values)]
    low, median, high = (f"{each:z.2f}" for each in np.quantile(values, [0, 0.5, 1]))
    ends = element("div", *(element("span", each) for each in (low, f"median {median}", high)), class_="scale")
    return element("figure", element("div", title), histogram(values), ends, class_=class_)


def _evidence(report: GapReport) -> list[Element]:
    record = report.log_evidence
    parts = [element("p", record.reason)] if record.reason else []
    if record.warning:
        parts.append(element("p", record.warning, class_="warning"))
    taken, rows = Counter(record.methods), []
    for name, number in taken.most_common():
        at = np.array([method == name for method in record.methods])
        reliable = f"{int(record.reliable.numpy()[at].sum())} of {number}"
        rows.append([name, str(number), reliable, f"{record.std_error.numpy()[at].mean():.3f}"])
    head = ["method", "data points", "reliable", "mean Monte Carlo error of one"]
    parts.append(_scrolled(table(head, rows)))
    khat = record.candidates.get("iwae", record).khat.numpy()  # of all data points, where AIS replaced some
    known, finite = khat[~np.isnan(khat)], khat[np.isfinite(khat)]
    if len(known):
        shares, lower = [], -np.inf
        for upper, said in KHAT:
            shares.append(f"{((known > lower) & (known <= upper)).mean():.0%} {said}")
            lower = upper
        parts.append(element("p", f"Pareto k-hat of the importance weights: {', '.join(shares)}."))
    if len(finite):
        parts.append(element("div", _histogram("k-hat", finite), class_="cards"))
    return parts


def _summary(report: GapReport) -> Element:
    summary = report.summary()
    rows = [[label, *map(figure, each)] for label, each in zip(summary.index, summary.values, strict=True)]
    return _scrolled(table(["", *ERRORS], rows))


def _layers(report: GapReport) -> list[Element]:
    rows = []
    for name, usage in report.latents.items():
        kl, information = usage.kl.mean(), figure(usage.mutual_information)
        active = "unknown" if usage.active_units is None else usage.active_units
        said = f"{active} of {usage.num_units}"
        state = element("span", "collapsed", class_="bad") if usage.collapsed else "in use"
        rows.append([name, f"{kl.estimate:z.3f} ± {kl.error:.3f}", information, said, state])
    head = ["latent site", "KL, or E log q/p", "mutual information with the data", "active units", ""]
    return [_scrolled(table(head, rows))] if rows else []


def _likelihood(report: GapReport) -> list[Element]:
    rows = [[site, f"{one.factor:.3f}", figure(one.gain)] for site, one in report.likelihood.items()]
    head = ["observed site", "factor on its standard deviation", "what that gains in log p(x), at least"]
    return [_scrolled(table(head, rows))] if rows else []


def _gradients(ds: xr.Dataset) -> list[Element]:
    """Signal-to-noise ratios: a table for each group of parameters."""
    floor = ds["snr_noise_floor"].item()
    said = f"Signal-to-noise ratios, ± one standard error. Below {floor:.3f}, a signal is hard to tell from noise."
    parts = [element("p", said)]
    for group in ds["group"].values:
        snr, error = (ds[name].sel(group=group) for name in ("snr", "snr_std_error"))
        rows: list[list[Content]] = [
            [
                str(name),
                *(
                    "undefined" if np.isnan(a) else f"{a:.3f} ± {b:.3f}"
                    for a, b in zip(snr.sel(objective=name), error.sel(objective=name), strict=True)
                ),
            ]
            for name in ds["objective"].values
        ]
        head = [f"gradient of {group}", *(f"K = {K}" for K in ds["num_particles"].values)]
        parts.append(_scrolled(table(head, rows)))
    return parts


def _settings(report: GapReport) -> list[Element]:
    rows = [[name, said] for name, said in report.settings.items()]
    if not rows:
        return []
    return [
        element("details", element("summary", f"{len(rows)} entries"), _scrolled(table(["", ""], rows, class_="words")))
    ]


def _scrolled(content: Element) -> Element:
    """Wider than a narrow screen, it scrolls by itself; a keyboard reaches it too."""
    return element("div", content, class_="scroll", tabindex="0")
