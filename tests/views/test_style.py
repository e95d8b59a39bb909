"""One style for all pictures: what it sets, and that pictures keep to it and show what they should."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import ppvae
from ppvae.models import LinearVAE
from ppvae.views import plots
from ppvae.views.style import COLORS, shown_once


@pytest.fixture
def ax():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


def reports(num=40):
    torch.manual_seed(0)
    pairs = [LinearVAE(3, 2) for _ in range(3)]
    x = pairs[0].sample(num)
    return {f"pair {i}": ppvae.gap(pair, x, "quick", seed=0, progress=False) for i, pair in enumerate(pairs)}


@pytest.fixture(scope="module")
def gaps():
    return reports()


@pytest.fixture(scope="module")
def gradients():
    pair = LinearVAE(3, 2)
    objectives = {name: ppvae.IWAE() for name in ("one", "the same")}
    return ppvae.gradient_statistics(pair, pair.sample(4), objectives, [1, 4], 32, progress=False)


def distance(one, other):
    return np.abs(np.array(mpl.colors.to_rgb(one)) - np.array(mpl.colors.to_rgb(other))).max()


def test_colors_differ_even_in_gray():
    """No two of the first four have the same lightness, and no two at all are near each other."""
    lightness = sorted(np.dot(mpl.colors.to_rgb(each), (0.299, 0.587, 0.114)) for each in COLORS[:4])
    assert np.diff(lightness).min() > 0.02
    assert min(distance(a, b) for a in COLORS for b in COLORS if a != b) > 0.2


def test_the_name_of_the_file_decides_and_dots_are_dense(tmp_path):
    before = dict(mpl.rcParams)
    with plots.style():
        figure, _ = plt.subplots(figsize=(2, 1))
        figure.savefig(tmp_path / "a.png")
        figure.savefig(tmp_path / "a.svg")
    plt.close(figure)
    assert plt.imread(tmp_path / "a.png").shape[:2] == (200, 400)
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert dict(mpl.rcParams) == before


def test_what_is_drawn_keeps_its_colors_outside(ax, gaps):
    """matplotlib looks up a color such as "C1" when it renders, which may be elsewhere."""
    plots.bounds(ax, gaps)
    assert {to_hex(line.get_color(), keep_alpha=False).upper() for line in ax.lines} == set(COLORS[:3])
    assert not any(str(line.get_color()).startswith("C") for line in ax.lines)


def test_whiskers_are_errors_of_differences_from_the_best(ax, gaps):
    plots.bounds(ax, gaps)
    best, *others = sorted((gap.log_evidence for gap in gaps.values()), key=lambda e: -e.mean().estimate)
    expected = sorted((best.estimate - each.estimate).std().item() / len(each.estimate) ** 0.5 for each in others)
    spans = [np.ptp(np.array(c.get_segments())[0][:, 0]) / 2 for c in ax.collections]
    np.testing.assert_allclose(sorted(spans), expected)


def test_reports_of_other_data_are_refused(ax, gaps):
    with pytest.raises(ValueError, match=r"gaps: found reports of .*, expected the same data points in all"):
        plots.bounds(ax, {**gaps, "other": next(iter(reports(10).values()))})


def test_the_bin_of_the_tail_says_so(ax, gaps):
    plots.gap_distribution(ax, gaps)
    values = np.concatenate([gap.gap.estimate.numpy() for gap in gaps.values()])
    (said,) = [text.get_text() for text in ax.texts if text.get_text().endswith("and more")]
    assert float(said.split()[0]) == pytest.approx(np.quantile(values, 0.99), abs=0.06)


def test_equal_curves_are_both_seen_and_all_is_named(gradients):
    figure = plots.gradient_statistics(gradients)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(names) == {"one", "the same", "slopes 1/2 and -1/2", "too noisy to see"}
    one, same = [c.lines[0] for c in figure.axes[0].containers]
    np.testing.assert_array_equal(one.get_ydata(), same.get_ydata())
    assert (same.get_xdata() > 1.1 * one.get_xdata()).all()
    plt.close(figure)


def test_the_waterfall_writes_each_figure_beside_its_row(gaps):
    report = gaps["pair 0"]
    figure = report.plot()
    left = figure.axes[0]
    rows = {round(text.xy[1]): text.get_text() for text in left.texts}
    ends = {0: report.log_evidence, 1: report.gap, 2: report.elbo}
    assert rows == {row: f"{line.mean().estimate:z.2f} ± {line.mean().std_error:.2f}" for row, line in ends.items()}
    low, high = left.get_xlim()
    assert low < report.elbo.mean().estimate < report.log_evidence.mean().estimate < high
    plt.close(figure)


@pytest.mark.parametrize(("backend", "num_open"), [("module://matplotlib_inline.backend_inline", 0), ("agg", 1)])
def test_a_notebook_shows_a_figure_once(backend, num_open, monkeypatch):
    """It shows what a cell returns, and at the cell's end whatever is open."""
    plt.close("all")
    monkeypatch.setattr(plt, "get_backend", lambda: backend)
    figure = shown_once(plt.figure())
    assert len(plt.get_fignums()) == num_open
    plt.close(figure)
