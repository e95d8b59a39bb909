"""Records in a notebook: a title, a small table, and their warnings; whatever they are called, it is escaped."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import ppvae
from ppvae.models import LinearVAE
from ppvae.views.notebook import notebook


class Cells(HTMLParser):
    """The text of each element, in order."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.tags = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.cells.append(data)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return LinearVAE(3, 2).fit_guide()


@pytest.fixture(scope="module")
def x(pair):
    return pair.sample(200)


def means(record):
    mean = record.mean()
    return [f"{each:.3f}" for each in (mean.estimate, mean.std_error, mean.monte_carlo_error)]


def shown(record):
    html = record._repr_html_()
    assert len(html) < 3000  # however many data points
    found = Cells(html)
    assert found.tags[:3] == ["div", "strong", "table"]
    return found.cells


def test_a_measurement(pair, x):
    bound = ppvae.elbo(pair, x, 7, seed=0, progress=False)
    cells = shown(replace(bound, warning="look out"))
    assert cells[0] == "Measurement, 200 data points"
    assert cells[-6:] == ["elbo", "7", *means(bound), "look out"]


def test_evidence_and_its_candidates(pair, x):
    found = ppvae.log_evidence(pair, x, "iwae", 50, seed=0, progress=False)
    both = replace(found, candidates={"iwae": found})
    cells = shown(both)
    reliable = f"{int(found.reliable.sum())} of 200"
    row = [*means(found), reliable, f"{found.khat.median():.2f}"]
    assert cells[8:15] == ["iwae", "200", *row]
    assert cells[15:22] == ["candidate: iwae", "200", *row]


def test_exact_evidence_has_no_khat(pair, x):
    assert shown(ppvae.log_evidence(pair, x, "exact", progress=False))[-1] == "none"


def test_a_fit_with_its_curve(pair):
    record = ppvae.Fit(pair, ppvae.ELBO(), {"bound": np.array([-3.0, np.nan, -1.25])}, 3, 12, 4.25, "completed")
    cells = shown(record)
    assert cells[0] == "Fit of LinearVAE"
    assert "completed, after 3 epochs, 12 steps" in cells
    assert "-1.250 nats per data point" in cells
    assert 'points="0.00,19.00 100.00,1.00"' in record._repr_html_()


def test_weights_by_site(pair, x):
    weights = pair.log_weights(x, num_particles=4)
    cells = shown(weights)
    assert cells[0] == "Weights, 4 particles of 200 data points"
    assert cells[-2:] == ["log w", f"{weights.log_w.mean():.3f}"]
    assert cells[cells.index("log q, z") + 1] == f"{weights.log_q.mean():.3f}"


def test_a_report_with_its_verdict(pair, x):
    report = ppvae.gap(pair, x, "quick", seed=0, progress=False)
    cells = shown(report)
    assert cells[0] == "LinearVAE, 200 data points"
    assert f"{report.mean().estimate:z.3f}" in cells
    assert cells[-1] == report.verdict().splitlines()[-1]


def test_names_are_escaped(pair, x):
    bound = replace(ppvae.elbo(pair, x, 2, seed=0, progress=False), method="<b>", warning="<i>")
    html = bound._repr_html_()
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;" in html
    assert {"b", "i"}.isdisjoint(Cells(html).tags)


def test_other_things_have_no_such_form():
    with pytest.raises(TypeError, match="record: found int"):
        notebook(3)


def test_no_zero_has_a_sign(pair, x, tmp_path):
    """A gap within rounding below zero, in all that shows it."""
    report = ppvae.gap(pair, x, "quick", seed=0, progress=False)
    gap = report.log_evidence.estimate + 1e-6
    report = replace(report, elbo=replace(report.elbo, estimate=gap))
    assert report.gap.mean().estimate < 0
    report.to_html(tmp_path / "gap.html")
    page = (tmp_path / "gap.html").read_text()
    texts = [repr(report), str(report), report._repr_html_(), page, str(report.gap), report.gap._repr_html_()]
    waterfall = [text.get_text() for axes in report.plot().axes for text in axes.texts]
    terms = ppvae.elbo_terms(pair, x, 10, seed=0, progress=False)
    usage = replace(terms.latents["z"], mutual_information=-1e-9)
    texts += [*waterfall, str(replace(terms, latents={"z": usage}))]
    for text in texts:
        assert not re.search(r"-0\.0+(?![\d.])", text), text
