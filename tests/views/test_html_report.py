"""The HTML report shows the ledger's numbers, needs nothing outside itself, and looks right in a browser."""

import base64
import importlib.util
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from support.browser import CHROMIUM, chromium

import ppvae
from ppvae import Effort, GapReport
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import VAE, LinearVAE
from ppvae.views.html_points import MOST_POINTS, as_images
from ppvae.views.ledger_plot import steps

HOSTILE = '<script>alert("x")</script><img src="http://example.org/a.png" onerror="alert(1)">'
BRIEF = Effort("iwae", 50, num_samples=50, ascent=Ascent(max_steps=10), restarts=0, richer=False, refit_steps=0)
SIDE = 5


class Read(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, class_):
        return [attributes for _, attributes in self.tags if class_ in attributes.get("class", "").split()]


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.rand(20, SIDE * SIDE).round()


@pytest.fixture(scope="module")
def pair(data):
    torch.manual_seed(0)
    return VAE.mlp(SIDE * SIDE, 2, [8]).init_from(data)


@pytest.fixture(scope="module")
def report(pair, data):
    return ppvae.gap(pair, data, BRIEF, seed=3, progress=False)


@pytest.fixture(scope="module")
def gradients(pair, data):
    return ppvae.gradient_statistics(pair, data[:4], {HOSTILE: ppvae.IWAE()}, [1, 4], 16, progress=False)


@pytest.fixture(scope="module")
def full(report, data, gradients, tmp_path_factory):
    """A report with all there is, under names that try to get out of their places."""
    (usage,) = report.latents.values()
    named = replace(report, pair=HOSTILE, latents={HOSTILE: usage}, notes={"elbo_refined": HOSTILE})
    path = tmp_path_factory.mktemp("report") / "gap.html"
    named.to_html(path, data, shape=(SIDE, SIDE), gradients=gradients)
    return path


def test_nothing_is_fetched_and_nothing_runs(full):
    page = Read(full)
    assert page.text.count(HOSTILE) >= 4  # in title, heading, layers, note
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    links = [value for _, found in page.tags for key, value in found.items() if key in ("src", "href", "srcset")]
    assert len(links) == MOST_POINTS
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not any(key.startswith("on") for _, found in page.tags for key in found)
    assert "url(" not in full.read_text()


def test_the_way_down_is_drawn_to_scale(full, report):
    page, way = Read(full), steps(report)
    number = r"(-?[\d.]+)%"
    ends = [float(re.match(f"left:{number}", end["style"])[1]) for end in page.of("end")]
    bars = [[float(n) for n in re.findall(number, bar["style"])] for bar in page.of("bar")]
    nats = report.log_evidence.mean().estimate - report.elbo.mean().estimate
    scale = (ends[0] - ends[1]) / nats
    assert len(bars) == len(way) == 2
    for (left, width), step in zip(bars, way, strict=True):
        assert width == pytest.approx(scale * abs(step.mean.estimate), abs=0.01)
        assert left == pytest.approx(ends[0] + scale * (min(step.start, step.end) - way[0].start), abs=0.01)
        assert f"{step.mean.estimate:z.2f} ± {step.mean.error:.2f}" in page.text
    assert way[-1].end == pytest.approx(report.elbo.mean().estimate)


def test_every_line_of_the_table_is_there(full, report):
    text = Read(full).text
    for label, (nats, *_) in zip(report.summary().index, report.summary().values, strict=True):
        assert label in text or label.startswith("KL of")
        assert f"{nats:.3f}" in text
    assert report.verdict().splitlines()[0].replace("+-", "±") in text


def test_the_worst_data_points_come_with_their_pictures(full, report, data):
    page = Read(full)
    order = report.gap.estimate.argsort(descending=True, stable=True)[:MOST_POINTS].tolist()
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [f"data point {index}" for index in order]
    for picture, index in zip(pictures, order, strict=True):
        file = io.BytesIO(base64.b64decode(picture["src"].partition(",")[2]))
        shown = matplotlib.image.imread(file, format="png")[..., :3]
        np.testing.assert_array_equal(shown, data[index].reshape(SIDE, SIDE, 1).expand(-1, -1, 3).numpy())
        assert f"{report.gap.estimate[index]:.2f} ± {report.gap.std_error[index]:.2f}" in page.text


def test_gradient_noise_is_shown_where_it_was_measured(full, gradients, report, tmp_path):
    text = Read(full).text
    for snr in gradients["snr"].values.flat:
        assert f"{snr:.3f} ±" in text
    report.to_html(tmp_path / "plain.html")
    plain = Read(tmp_path / "plain.html")
    assert "Noise of the gradients" not in plain.text
    assert not any(tag == "img" for tag, _ in plain.tags)


def test_what_there_is_none_of_is_said_in_words(gradients, report, tmp_path):
    """A gradient that an objective refuses, and the spread of one data point; on the page and in a notebook."""
    refused = gradients.copy(deep=True)
    refused["snr"][:, 0] = refused["snr_std_error"][:, 0] = np.nan
    report.to_html(tmp_path / "gap.html", gradients=refused)
    one = LinearVAE(3, 2)
    single = ppvae.gap(one, one.sample(1), "quick", seed=0, progress=False)
    single.to_html(tmp_path / "one.html")
    texts = [Read(tmp_path / "gap.html").text, Read(tmp_path / "one.html").text]
    for text in [*texts, single._repr_html_(), single.gap._repr_html_()]:
        assert not re.search(r"\bnan\b", text)
        assert "undefined" in text


def test_settings_and_versions_are_kept(report, tmp_path):
    report.save(tmp_path / "gap.safetensors")
    GapReport.load(tmp_path / "gap.safetensors").to_html(tmp_path / "gap.html")
    text = Read(tmp_path / "gap.html").text
    assert report.settings["seed"] == "3"
    assert report.settings["effort.num_particles"] == "50"
    assert report.settings["training data"] == "none"
    assert all(name in text and said in text for name, said in report.settings.items())
    assert torch.__version__ in text


def test_exact_evidence_without_a_gap(tmp_path):
    pair = LinearVAE(3, 2, guide="exact")
    ppvae.gap(pair, pair.sample(5), "quick", seed=0, progress=False).to_html(tmp_path / "gap.html")
    page = Read(tmp_path / "gap.html")
    assert "Pareto k-hat" not in page.text
    assert len(page.of("bar")) == 1
    assert "nan" not in page.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": torch.zeros(19, 25)}, "data: found 19 data points, expected the 20 that the report measured"),
        ({"data": torch.zeros(20, 25), "shape": (4, 4)}, "data: found shapes .*expected rows of 4 times 4 pixels"),
    ],
)
def test_other_data_are_refused_and_no_file_is_left(report, given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        report.to_html(tmp_path / "gap.html", **given)
    assert list(tmp_path.iterdir()) == []


def test_what_counts_as_an_image():
    assert as_images(torch.zeros(2, 6, 5), None).shape == (2, 6, 5, 1)
    assert as_images(torch.zeros(2, 3, 6, 5), None).shape == (2, 6, 5, 3)
    assert as_images(torch.zeros(2, 30), (6, 5)).shape == (2, 6, 5, 1)
    assert as_images(torch.zeros(2, 30), None) is None
    assert as_images(torch.zeros(2, 2, 6, 5), None) is None
    assert as_images(torch.full((1, 4, 4), 255, dtype=torch.uint8), None).max() == 1.0


@pytest.mark.slow(6)
@pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("websocket") is None, reason="needs Chromium, and '.[docs]'"
)
def test_a_browser_shows_it_without_a_complaint(full, tmp_path):
    shots, paper = Path(os.environ.get("PPVAE_SCREENSHOTS", tmp_path)), {}
    with chromium(tmp_path / "profile") as page:
        for width in (390, 1280):
            for dark in (False, True):
                page.open(full, width=width, dark=dark)
                assert page.broken_images() == []
                assert page.overflow() == 0
                page.photograph(shots / f"report-{width}{'-dark' * dark}.png")
                assert page.complaints == []
                background = page.run("getComputedStyle(document.body).backgroundColor")
                paper[dark] = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert paper[True] < 60 < 200 < paper[False]
