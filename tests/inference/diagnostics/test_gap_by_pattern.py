"""The ledger by pattern of what is there, against closed forms for each pattern."""

import pandas as pd
import pytest
import torch

import ppvae
from ppvae import Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.models import LinearModalities, LinearVAE, MultimodalVAE
from ppvae.wording import figures

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}
EXACT = Effort("exact", num_samples=1000, ascent=None)
PATTERNS = {"a + b": [True, True], "a": [True, False], "b": [False, True]}


def modalities(guide="product", rotated=("b",)):
    """Two modalities; the columns of those that are `rotated` are not orthogonal, nor is then their product exact."""
    torch.manual_seed(0)
    pair = LinearModalities({"a": 5, "b": 5}, 2, guide).requires_grad_(False)
    for name, likelihood in pair.likelihoods.items():
        weight = torch.linalg.qr(torch.randn(5, 2)).Q * torch.tensor([3.0, 1.0])
        turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
        likelihood.network.weight.copy_(weight @ turn if name in rotated else weight)
    return pair.fit_guide()


def of_pattern(x, has):
    return x | {"has": torch.tensor(has).expand(len(x["a"]), 2)}


@pytest.mark.slow(16)
def test_every_pattern_has_its_closed_form():
    """The product is exact given a, whose columns are orthogonal, and off by what is known given b, and both."""
    pair = modalities()
    x = pair.sample(40)
    before = {name: t.clone() for name, t in pair.state_dict().items()}, pair.example
    effort = Effort("exact", num_samples=500, ascent=Ascent(max_steps=150), restarts=0, richer=False)
    report = ppvae.gap_by_pattern(pair, x, effort, patterns=[name.split(" + ") for name in PATTERNS], **quiet)
    assert list(report.reports) == list(PATTERNS)
    for name, has in PATTERNS.items():
        own, found = of_pattern(x, has), report.reports[name]
        family = pair.factorized_gap(torch.tensor([has])).item()
        expected = {
            "log_evidence": pair.log_prob(own).mean().item(),
            "gap": pair.exact_gap(own).mean().item(),
            "approximation_gap": family,
            "amortization_gap": pair.exact_gap(own).mean().item() - family,
        }
        for line, value in expected.items():
            mean = getattr(found, line).mean()
            assert abs(mean.estimate - value) < 4 * mean.monte_carlo_error + 0.003, (name, line, mean, value)
    gaps = report.summary()["gap"]
    assert abs(gaps["a"]) < 1e-6
    assert min(gaps["b"], gaps["a + b"]) > 0.1
    assert report.summary().loc[["b", "a + b"], "draws"].str.contains("too narrow").all()
    assert report.summary().loc["a", "draws"] == ""
    assert all(torch.equal(t, before[0][name]) for name, t in pair.state_dict().items())
    assert pair.example is before[1]


def test_an_exact_guide_is_calibrated_for_every_pattern():
    pair = modalities("exact")
    report = ppvae.gap_by_pattern(pair, pair.sample(5), EXACT, patterns=[["a"], ["a", "b"]], **quiet)
    table = report.summary()
    assert (table["draws"] == "").all()
    assert (table["p_value"] > 0.001).all()
    assert table["gap"].abs().max() < 1e-9


def test_rows_are_measured_as_they_are_without_patterns():
    pair = modalities()
    x = pair.sample(6)
    x["has"] = torch.tensor([[True, False], [True, True], [True, False], [False, True], [True, True], [True, False]])
    report = ppvae.gap_by_pattern(pair, x, EXACT, num_simulations=None, **quiet)
    table = report.summary()
    assert table["data_points"].to_dict() == {"a + b": 2, "b": 1, "a": 3}
    for name, has in PATTERNS.items():
        at = (x["has"] == torch.tensor(has)).all(-1)
        torch.testing.assert_close(report.reports[name].log_evidence.estimate, pair.log_prob(x)[at])
    assert "draws" not in table


def test_a_pattern_takes_the_rows_that_have_it_and_hides_the_rest():
    pair = modalities()
    x = pair.sample(4)
    x["has"] = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    report = ppvae.gap_by_pattern(pair, x, EXACT, patterns=[["b"]], num_simulations=None, **quiet)
    alone = of_pattern({name: x[name][1:] for name in "ab"}, PATTERNS["b"])
    torch.testing.assert_close(report.reports["b"].log_evidence.estimate, pair.log_prob(alone))


def test_training_data_are_hidden_alike(monkeypatch):
    pair, seen = modalities(), []

    def gap(pair, data, effort, *, train, **settings):
        seen.append((data, train))
        return ppvae.gap(pair, data, effort, **settings)

    monkeypatch.setattr(ppvae.inference.diagnostics.ledger_by_pattern, "gap", gap)
    train = of_pattern(pair.sample(5), [True, False])
    train["has"] = torch.tensor([[True, True], [False, True], [True, False], [True, True], [True, True]])
    ppvae.gap_by_pattern(pair, pair.sample(3), EXACT, patterns=[["b"]], train=train, num_simulations=None, **quiet)
    [(data, own)] = seen
    assert data["has"].tolist() == [PATTERNS["b"]] * 3
    assert own["has"].tolist() == [PATTERNS["b"]] * 4
    assert torch.equal(own["a"], train["a"][[0, 1, 3, 4]])


def test_the_report_is_a_line_in_text_and_a_table_in_a_notebook():
    pair = modalities()
    report = ppvae.gap_by_pattern(pair, pair.sample(3), EXACT, num_simulations=20, **quiet)
    gap = report.reports["a + b"].gap.mean().estimate
    assert repr(report) == f"PatternReport(LinearModalities: gap of a + b {gap:.3f} nats)"
    assert str(report) == figures(report.summary())
    assert report._repr_html_().count("<table") == 1
    assert isinstance(report.summary(), pd.DataFrame)


def test_what_has_no_patterns_is_refused(monkeypatch):
    pair = MultimodalVAE.mlp({"a": 3, "b": 2}, 2, [3])
    x = pair.sample(4)
    with pytest.raises(ValueError, match=r"LinearVAE.modalities: found none, expected the names of the columns"):
        ppvae.gap_by_pattern(LinearVAE(3, 2), torch.zeros(3, 3), EXACT)
    with pytest.raises(ValueError, match=r"patterns: found \['c'\], expected some of \['a', 'b'\]"):
        ppvae.gap_by_pattern(pair, x, EXACT, patterns=[["a", "c"]])
    with pytest.raises(ValueError, match=r"data: found no row with a \+ b, expected one or more"):
        ppvae.gap_by_pattern(pair, of_pattern(x, [True, False]), EXACT, patterns=[["a", "b"]])
    alone, patterns = of_pattern(x, [True, False]), [["a"], ["a", "b"]]
    monkeypatch.setattr(
        "ppvae.inference.diagnostics.ledger_by_pattern.gap", lambda *args, **kw: pytest.fail("measured")
    )
    with pytest.raises(ValueError, match=r"^train: found no row with a \+ b, expected one or more"):
        ppvae.gap_by_pattern(pair, x, EXACT, patterns=patterns, train=alone)
    with pytest.raises(ValueError, match=r"^train\[a\]: found nan at index \(0, 0\)"):
        ppvae.gap_by_pattern(pair, x, EXACT, patterns=patterns, train=x | {"a": x["a"] * torch.nan})
