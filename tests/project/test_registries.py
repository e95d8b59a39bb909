"""A new kind of thing is one class or function and one registration: it then shows up everywhere, docs included."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_rgba

import ppvae
from ppvae import AIS, Effort, GapReport
from ppvae.batches import num_rows
from ppvae.inference.evidence import registry as evidence_registry
from ppvae.inference.evidence.method import EvidenceMethod
from ppvae.inference.ledger import registry as ledger_registry
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.cause import significant
from ppvae.inference.ledger.lines import Bar, Line
from ppvae.inference.ledger.posteriors import DRAWN_BY
from ppvae.inference.ledger.verdicts import causes
from ppvae.inference.runtime.differences import difference
from ppvae.models import LinearVAE
from ppvae.views.arviz_export import to_arviz

matplotlib.use("Agg")
DOCS = Path(__file__).parents[2] / "docs"
quiet = {"seed": 0, "progress": False}
BRIEF = AIS(num_chains=4, num_temperatures=5, num_leapfrog=1)


def dataset(container, name):
    found = container[name]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


class Unknown(LinearVAE):
    """A linear VAE that does not know its own evidence."""

    def log_prob(self, x):
        raise NotImplementedError


# An evidence method


class Guess(EvidenceMethod):
    """The same bound for everyone, to be trusted for every other data point."""

    name = "guess"
    about = "a guess"
    trusted = "every other time"
    limit = "guessed in vain"

    def run(self, task):
        estimate = torch.full((num_rows(task.batch),), 50.0, dtype=torch.float64)
        return self.record(3, {"estimate": estimate, "std_error": torch.full_like(estimate, 0.01)})

    def reliable(self, found):
        return torch.arange(len(found["estimate"])) % 2 == 0

    def is_candidate(self, task):
        return True


@pytest.fixture
def guess():
    evidence_registry.register(Guess())
    yield
    del evidence_registry.METHODS["guess"]


def test_a_new_evidence_method_shows_up_everywhere(guess):
    pair = Unknown(4, 2).fit_guide()
    x = pair.sample(6)
    record = ppvae.log_evidence(pair, x, "guess", **quiet)
    assert (record.method, record.methods, record.num_particles) == ("guess", ("guess",) * 6, 3)
    assert record.reliable.tolist() == [True, False] * 3
    assert record.warning.startswith("unreliable for 3 of 6 data points (guessed in vain)")
    assert ppvae.compare({"pair": record}).loc["pair", "method"] == "guess"

    report = ppvae.gap(pair, x, replace(ppvae.inference.ledger.effort.EFFORTS["quick"], evidence="guess"), **quiet)
    assert report.summary().loc["log p(x)", "nats"] == 50.0
    assert "log p(x), 50.00, which is a lower bound, by guess." in report.verdict()
    assert "For 3 of 6 data points that is not to be trusted" in report.verdict()
    found = dataset(report.to_arviz(), "evidence")
    assert found.candidate.values.tolist() == ["guess"]
    assert found.reliable.sel(candidate="guess").values.tolist() == [True, False] * 3
    assert report.plot().axes[0].get_yticklabels()[0].get_text() == "log p(x)"
    ax = plt.figure().subplots()
    ppvae.plots.bound_curve(ax, ppvae.bound_curve(pair, x, [1, 10], **quiet), record)
    assert any("guess" in text.get_text() for text in ax.get_legend().get_texts())
    plt.close("all")


def test_a_new_evidence_method_is_a_candidate(guess):
    pair = Unknown(4, 2).fit_guide()
    best = ppvae.log_evidence(pair, pair.sample(6), "best", 20, annealing=BRIEF, **quiet)
    assert set(best.candidates) == {"iwae", "ais", "guess"}
    assert best.methods == ("guess",) * 6
    assert "guess for 6 of 6 data points" in best.reason
    assert best.reliable.tolist() == [True, False] * 3


def test_a_new_exact_method_is_tried_by_auto_and_best(guess, monkeypatch):
    monkeypatch.setattr(Guess, "exact", True)
    pair = Unknown(4, 2)
    for method in ("auto", "best"):
        assert ppvae.log_evidence(pair, pair.sample(2), method, **quiet).method == "guess"
    report = ppvae.gap(pair, pair.sample(2), "quick", **quiet)
    assert "which is exact" in report.verdict()


def test_what_is_not_registered_is_refused_by_name():
    with pytest.raises(ValueError, match=r"method: found 'guess', expected one of \('auto', 'exact', 'iwae', 'ais', "):
        ppvae.log_evidence(LinearVAE(4, 2), torch.zeros(2, 4), "guess")


# A ledger line


def blended(bench):
    """The flow's ELBO, raised by half a nat."""
    flow = bench.measured["elbo_flow"]
    return replace(flow, estimate=flow.estimate + 0.5)


BLEND = (
    Line("elbo_blend", label="ELBO, blended", about="made up", measure=blended, richer=True),
    Line(
        "blend_gap",
        label="a blend closes further",
        about="`elbo_blend - elbo_flow`: half a nat",
        value=lambda found: difference("blend gap", found.measured.get("elbo_blend"), found.measured.get("elbo_flow")),
        part_of="approximation_gap",
        causes=lambda found, line: significant(
            "blend", line, lambda nats: f"A blend for each data point gains {nats:.2f} nats.", "Try a blend."
        ),
        bar=Bar("family: blend", "C2", place=3),
    ),
)
EFFORT = Effort("exact", num_samples=50, ascent=Ascent(max_steps=60), restarts=0)


@pytest.fixture
def blend():
    ledger_registry.register(*BLEND)
    yield
    for line in BLEND:
        ledger_registry.LINES.pop(line.name, None)


@pytest.mark.slow(11)
def test_a_new_ledger_line_shows_up_everywhere(blend, float64, tmp_path):
    pair = LinearVAE(4, 2).fit_guide()
    report = ppvae.gap(pair, pair.sample(10), EFFORT, train=pair.sample(10), **quiet)
    torch.testing.assert_close(report.blend_gap.estimate, torch.full((10,), 0.5), rtol=0, atol=1e-12)
    parts = ("correlation_gap", "shape_gap", "blend_gap", "remaining_gap")
    torch.testing.assert_close(
        sum(getattr(report, name).estimate for name in parts), report.approximation_gap.estimate, rtol=0, atol=1e-12
    )

    table = report.summary()
    assert table.loc["    a blend closes further", "nats"] == pytest.approx(0.5)
    assert {"ELBO, blended", "training data: a blend closes further"} <= set(table.index)
    assert list(table.index).index("    a blend closes further") < list(table.index).index("  of it: amortization")

    assert "blend" in [cause.name for cause in causes(report)]
    said = "A blend for each data point gains 0.50 nats. Half of it lies in 5 of the 10 data points. Try a blend."
    assert said in report.verdict()

    left = report.plot().axes[0]
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels[1:5] == ["family: correlation", "family: shape", "family: blend", "family: beyond"]
    with ppvae.plots.style():
        assert left.patches[2].get_facecolor()[:3] == to_rgba("C2")[:3]
    assert left.patches[2].get_width() == pytest.approx(-0.5)
    assert sum(bar.get_width() for bar in left.patches) == pytest.approx(-report.mean().estimate)
    plt.close("all")

    exported = dataset(report.to_arviz(), "ledger")
    assert exported.blend_gap.attrs["long_name"] == "a blend closes further"
    assert {"elbo_blend", "elbo_blend_std_error", "blend_gap_std_error"} <= set(exported)

    report.save(tmp_path / "report")
    for again in (GapReport.load(tmp_path / "report"), pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert torch.equal(again.measured["elbo_blend"].estimate, report.elbo_blend.estimate)
        assert str(again) == str(report)


def test_a_removed_line_is_gone(float64):
    pair = LinearVAE(4, 2).fit_guide()
    report = ppvae.gap(pair, pair.sample(3), "quick", **quiet)
    with pytest.raises(AttributeError, match="'GapReport' object has no attribute 'blend_gap'"):
        _ = report.blend_gap
    assert {"gap", "elbo_flow", "save"} <= set(dir(report))


def test_a_whole_is_no_cause_beside_its_parts(blend, float64):
    """And is one where they are not measured."""
    pair = LinearVAE(4, 2).fit_guide()
    x = pair.sample(10)
    report = ppvae.gap(pair, x, EFFORT, **quiet)
    worse = replace(report, log_evidence=replace(report.log_evidence, estimate=report.log_evidence.estimate + 3))
    assert "family" not in [cause.name for cause in causes(worse)]
    unsplit = replace(worse, measured={"elbo_refined": worse.elbo_refined})
    assert [cause.name for cause in causes(unsplit)] == ["family"]


# The docs


def rows(text):
    return [line.strip() for line in text.splitlines() if line.strip().startswith("|")]


@pytest.mark.parametrize("name", list(ledger_registry.LINES))
def test_docs_say_of_each_line_what_the_registry_does(name):
    line = ledger_registry.LINES[name]
    assert f"| `{name}` | {line.about} |" in rows((DOCS / "ledger.md").read_text())


def test_docs_have_no_other_lines():
    table = (DOCS / "ledger.md").read_text().split("| line | experiment |\n|---|---|\n")[1].split("\n\n")[0]
    assert [row.split("`")[1] for row in rows(table)] == [line.name for line, _ in ledger_registry.in_order()]


@pytest.mark.parametrize("name", list(evidence_registry.METHODS))
def test_docs_say_of_each_evidence_method_what_the_registry_does(name):
    method = evidence_registry.METHODS[name]
    assert f'| `"{name}"` | {method.about} | {method.trusted} |' in rows((DOCS / "ledger.md").read_text())
    assert f'"{name}"' in ppvae.log_evidence.__doc__


@pytest.mark.parametrize("name", list(DRAWN_BY))
def test_docs_say_of_each_posterior_what_the_registry_does(name):
    way = DRAWN_BY[name]
    said = f"{way.about} | {', '.join(f'`{quality}`' for quality in way.quality)}".strip() + " |"
    assert f'| `"{name}"` | {said}' in rows((DOCS / "arviz.md").read_text())
    assert f'| "{name}" | {said}' in rows(to_arviz.__doc__)
