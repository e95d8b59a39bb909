"""The ledger against closed forms: every line of a pair of which all is known, and how lines add up."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.oracle_pairs import Bimodal

import ppvae
from ppvae import AIS, Effort, GapReport, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.verdicts import causes, verdict
from ppvae.models import VAE, GaussianMixture, LinearVAE

quiet = {"progress": False, "seed": 0}
EXACT = Effort("exact", num_samples=500, restarts=0)
QUICK = Effort("exact", num_samples=100, ascent=None)
"""Of evidence and ELBO alone, where a test makes up the other lines."""
BRIEF = Effort("exact", num_samples=100, ascent=Ascent(max_steps=50), restarts=0, refit_steps=50)
"""Of all lines, for what holds however well they are measured."""


def rotated(num_features=8, num_latents=3):
    """A linear VAE whose best diagonal guide has a gap that is known, and is not small."""
    pair = LinearVAE(num_features, num_latents)
    basis = torch.linalg.qr(torch.randn(num_features, num_latents))[0] * torch.linspace(4, 1, num_latents)
    pair.weight.data = basis @ torch.linalg.qr(torch.randn(num_latents, num_latents))[0]
    return pair.fit_guide()


@pytest.fixture(scope="module")
def report():
    """Of every line, on data that the pair does not fit."""
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        return ppvae.gap(rotated(), torch.randn(20, 8), BRIEF, train=torch.randn(200, 8), **quiet)
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_but_rounding_lies_between_an_exact_guide_and_the_evidence():
    """In single precision, richer families too: no ascent leaves an optimum."""
    pair = LinearVAE(8, 3, guide="exact")
    report = ppvae.gap(pair, pair.sample(20), BRIEF, **quiet)
    for name in ("gap", "approximation_gap", "amortization_gap", "correlation_gap", "shape_gap", "remaining_gap"):
        assert report.lines()[name].estimate.abs().max() < 1e-5, name


@pytest.mark.slow(23)
def test_every_line_is_its_closed_form(float64):
    """An encoder that is off, and a diagonal guide of a correlated posterior."""
    pair = rotated()
    x, train = pair.sample(100), pair.sample(1000)
    pair.encoder.bias.data += 0.5
    pair.posterior_scale.data += 0.5
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    report = ppvae.gap(pair, x, replace(EXACT, ascent=Ascent(max_steps=200)), train=train, **quiet)
    approximation, whole = pair.factorized_gap().item(), pair.exact_gap(x).mean().item()
    expected = {
        "log_evidence": pair.log_prob(x).mean().item(),
        "gap": whole,
        "approximation_gap": approximation,
        "amortization_gap": whole - approximation,
        "correlation_gap": approximation,
        "shape_gap": 0.0,
        "remaining_gap": 0.0,
        "training_gap": whole - approximation,
        "capacity_gap": 0.0,
    }
    assert approximation > 0.1
    assert whole > 10 * approximation
    for name, value in expected.items():
        line = getattr(report, name).mean()
        assert abs(line.estimate - value) < 3 * line.monte_carlo_error + 0.003, (name, line, value)
    assert [cause.name for cause in causes(report)] == ["training", "correlation"]
    for name, t in pair.state_dict().items():
        assert torch.equal(t, before[name])
    seen = report.train.approximation_gap.mean()
    assert abs(seen.estimate - approximation) < 3 * seen.monte_carlo_error + 0.003


PARTS = {
    "gap": ("approximation_gap", "amortization_gap"),
    "approximation_gap": ("correlation_gap", "shape_gap", "remaining_gap"),
    "amortization_gap": ("training_gap", "capacity_gap"),
}


def assert_adds_up(report, wholes=tuple(PARTS)):
    for whole in wholes:
        total = sum(getattr(report, name).estimate for name in PARTS[whole])
        torch.testing.assert_close(total, getattr(report, whole).estimate, rtol=0, atol=1e-12)


def test_lines_add_up_exactly(report):
    assert_adds_up(report)
    torch.testing.assert_close(
        report.log_evidence.estimate - report.elbo.estimate, report.gap.estimate, rtol=0, atol=1e-12
    )


@pytest.mark.slow(22)
def test_an_exact_guide_has_no_cause(float64):
    pair = LinearVAE(6, 2, guide="exact")
    report = ppvae.gap(pair, pair.sample(50), BRIEF, train=pair.sample(100), **quiet)
    assert causes(report) == []
    assert "No cause was found" in report.verdict()
    assert "The guide is not what keeps it low" in report.verdict()
    assert report.elbo_refitted is None
    assert report.notes["training_gap"] == "undefined: the guide has no parameters of its own"


@pytest.mark.slow(3)
def test_discrete_guides_are_refined_by_enumeration(float64):
    pair = GaussianMixture(3, 2, guide="amortized")
    report = ppvae.gap(pair, 2 * torch.randn(50, 2), EXACT, **quiet)
    assert report.gap.mean().estimate > 0.05
    assert 0 <= report.approximation_gap.mean().estimate < Ascent().tolerance
    assert report.elbo_full_rank is None
    assert "site 'component': found Categorical, which is discrete" in report.notes["elbo_full_rank"]
    assert [cause.name for cause in causes(report)] == ["amortization"]


SLOWER = [("low-rank", "normal"), ("flow", "mixture"), ("iaf", "flow")]


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("mixture", "normal"),
        ("diagonal", "vamp"),
        *(pytest.param(*parts, marks=pytest.mark.slow(60)) for parts in SLOWER),
    ],
)
def test_every_part_has_a_ledger(posterior, prior, float64):
    """Each family is refined, and lines add up; a VampPrior's guide is the model's too, and is not trained further."""
    pair, x = VAE.mlp(4, 2, [5], "gaussian", posterior, prior=prior), torch.randn(6, 4)
    effort = Effort("iwae", 300, num_samples=300, ascent=Ascent(max_steps=30), restarts=0, refit_steps=5)
    report = ppvae.gap(pair, x, effort, train=torch.randn(20, 4), **quiet)
    gained = report.amortization_gap.mean()
    assert gained.estimate > 5 * gained.monte_carlo_error
    assert_adds_up(report, ["gap", "approximation_gap"])
    if prior == "vamp":
        assert report.notes["training_gap"] == "undefined: the guide has no parameters of its own"
    else:
        assert_adds_up(report)


class NoGuide(Pair):
    """Its latent is summed out."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)

    def guide(self, x):
        pass


def test_what_does_not_exist_is_declared(float64):
    report = ppvae.gap(NoGuide(), torch.randn(10), EXACT, **quiet)
    assert report.gap.estimate.abs().max() < 1e-12
    assert report.amortization_gap is None
    assert report.notes["elbo_refined"] == "undefined: the guide has no sites"


@pytest.mark.slow(12)
def test_a_missed_mode_is_named(float64):
    """Importance weights and their k-hat see nothing amiss; chains from the prior do, and the verdict says so."""
    pair, x = Bimodal(), torch.tensor([2.0, 3.0, 4.0] * 10)
    effort = Effort(
        annealing=(AIS(num_temperatures=100), AIS(num_chains=64, num_temperatures=100, start="prior")),
        num_samples=100,
        ascent=Ascent(max_steps=100),
        restarts=0,
    )
    report = ppvae.gap(pair, x, effort, **quiet)
    weighted = report.log_evidence.candidates["iwae"]
    assert weighted.reliable.all()
    assert (weighted.estimate - pair.on_grid(x) + math.log(2)).mean().abs() < 0.05
    assert (report.log_evidence.estimate - pair.on_grid(x)).mean().abs() < 0.1
    main = causes(report)[0]
    assert main.name == "modes"
    assert abs(main.nats - math.log(2)) < 0.15
    assert "leaves out modes of the posterior" in report.verdict()


def test_quick_measures_the_gap_alone(float64):
    pair = rotated()
    report = ppvae.gap(pair, pair.sample(50), "quick", **quiet)
    assert set(report.lines()) == {"log_evidence", "elbo", "gap"}
    assert report.notes["elbo_refined"] == "not asked for"
    assert "elbo_refined (not asked for)" in report.verdict()


def test_table(report):
    table = report.summary()
    assert list(table.columns) == ["nats", "std_error", "monte_carlo_error"]
    assert table.loc["gap, log p(x) - ELBO", "nats"] == report.mean().estimate
    assert table.loc["KL of z", "nats"] == report.latents["z"].kl.mean().estimate
    assert table.loc["training data: ELBO", "nats"] == report.train.elbo.mean().estimate
    assert table.index.name == "LinearVAE, 20 data points"


@pytest.mark.slow(5)
def test_a_seed_reproduces(float64):
    pair, x = rotated(), torch.randn(10, 8)
    effort = Effort("iwae", 100, num_samples=20, ascent=Ascent(max_steps=60), restarts=1)
    first, second = (ppvae.gap(pair, x, effort, seed=3, progress=False) for _ in range(2))
    for name, line in first.lines().items():
        assert torch.equal(line.estimate, second.lines()[name].estimate), name


@pytest.mark.slow(12)
def test_reports_are_kept(float64, tmp_path):
    pair = rotated()
    effort = Effort("best", 100, (AIS(num_temperatures=5),), 20, Ascent(max_steps=60), restarts=0, refit_steps=20)
    report = ppvae.gap(NoClosedForm(8, 3), pair.sample(10), effort, train=pair.sample(50), **quiet)
    report.save(tmp_path / "report")
    found = GapReport.load(tmp_path / "report")
    assert str(found) == str(report)
    assert set(found.log_evidence.candidates) == {"iwae", "ais"}
    assert torch.equal(found.log_evidence.candidates["ais"].ess, report.log_evidence.candidates["ais"].ess)
    assert found.log_evidence.methods == report.log_evidence.methods
    assert found.train.notes == report.train.notes


class NoClosedForm(LinearVAE):
    def log_prob(self, x):
        raise NotImplementedError


@pytest.mark.slow(13)
def test_dict_batches_and_functions_of_pyro(float64):
    """An existing model and guide, in one call."""

    def model(value, width):
        with pyro.plate("rows", len(value)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("value", dist.Normal(z, width), obs=value)

    def guide(value, width):
        offset = pyro.param("offset", torch.tensor(0.3))
        with pyro.plate("rows", len(value)):
            pyro.sample("z", dist.Normal(value / (1 + width**2) + offset, (1 / (1 + width**-2)).sqrt()))

    batch = {"value": torch.randn(40), "width": 0.5 + torch.rand(40)}
    pair = Pair.of(model, guide, example=batch)
    effort = Effort("iwae", 1000, num_samples=500, restarts=0, richer=False, refit_steps=500)
    report = ppvae.gap(pair, batch, effort, train=batch, **quiet)
    cost = 0.3**2 / 2 * (1 + batch["width"] ** -2)  # of the offset, in units of the posterior's precision
    z = (report.amortization_gap.estimate - cost) / report.amortization_gap.std_error
    assert z.abs().max() < 5
    assert report.approximation_gap.mean().estimate < 0.01
    assert set(causes(report)[0].name.split()) <= {"training", "capacity"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, x: ppvae.gap(pair, x, "much"), "effort: found 'much', expected one of"),
        (lambda pair, x: Effort(restarts=-1), "restarts: found -1, expected 0 or more"),
        (lambda pair, x: Effort(num_samples=0), "num_samples: found 0, expected at least 1"),
        (lambda pair, x: ppvae.gap(pair, x / 0, "quick"), "data.*found"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(rotated(), torch.ones(3, 8))


def test_training_data_are_refused_by_name_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("ppvae.inference.ledger.decomposition.elbo_of", lambda *args: pytest.fail("measured"))
    with pytest.raises(ppvae.ContractError, match=r"^train: found rows of shape \[7\], expected \[8\]"):
        ppvae.gap(rotated(), torch.randn(4, 8), "quick", train=torch.randn(9, 7), **quiet)


def test_close_causes_are_not_ranked(float64):
    """Two causes of the same size within their Monte Carlo errors are both named; neither is called the main one."""
    report = ppvae.gap(rotated(), torch.randn(20, 8), QUICK, **quiet)
    noise = 0.2 * torch.randn(20)
    level = report.log_evidence.estimate

    def line(below):
        return ppvae.Measurement(level - below, torch.full((20,), 0.2), 100, "made up")

    tied = replace(report, elbo=line(2.0 + noise), measured={"elbo_refined": line(1.0 - noise)})
    assert "cannot be ranked: " in verdict(tied)
    clear = replace(tied, measured={"elbo_refined": line(1.7 - noise)})
    assert "The main cause is family (1.7" in verdict(clear)


def test_a_cause_in_few_data_points_is_a_cause(float64):
    """Of the whole family's 1.5 nats all lie in 3 of 100 data points: more than the 0.3 that each loses otherwise."""
    report = ppvae.gap(rotated(), torch.randn(100, 8), QUICK, **quiet)
    below = torch.zeros(100)
    below[[3, 50, 51]] = 50.0

    def line(estimate):
        return ppvae.Measurement(estimate, torch.full((100,), 0.1), 100, "made up")

    refined = report.log_evidence.estimate - below
    made_up = replace(report, elbo=line(refined - 0.3), measured={"elbo_refined": line(refined)})
    assert [(cause.name, round(cause.nats, 3)) for cause in causes(made_up)] == [("family", 1.5), ("amortization", 0.3)]
    assert "The main cause is family (1.50 +- 0.86 nats)" in verdict(made_up)
    assert "Half of it lies in 2 of the 100 data points." in verdict(made_up)


@pytest.mark.parametrize(("collapsed", "main"), [(("z1", "z2"), "training"), (("z2",), "training")])
def test_what_costs_comes_before_what_is_unused(collapsed, main, float64):
    """A latent that says nothing costs nothing; where none says anything, that is a cause, of unknown cost."""
    report = ppvae.gap(rotated(), torch.randn(20, 8), QUICK, **quiet)
    (usage,) = report.latents.values()
    unused = replace(usage, kl=replace(usage.kl, estimate=torch.zeros(20)))
    latents = {name: unused if name in collapsed else usage for name in ("z1", "z2")}
    lost = replace(report.elbo, estimate=report.elbo.estimate + 10)
    found = replace(report, latents=latents, measured={"elbo_refitted": lost})
    names = [cause.name for cause in causes(found)]
    assert names[0] == main
    assert ("collapse" in names) == (len(collapsed) == 2)
    assert ("Unused: z2; the guide is the prior there" in verdict(found)) == (len(collapsed) == 1)


def test_where_nothing_was_looked_for_nothing_is_denied():
    pair = rotated()
    report = ppvae.gap(pair, pair.sample(200), "quick", **quiet)
    assert "No cause was looked for" in report.verdict()
    assert "No cause was found" not in report.verdict()


def test_training_data_are_taken_from_all_over(monkeypatch):
    """Sorted by class, say: the first rows would be one class alone."""
    pair, train = LinearVAE(4, 2).fit_guide(), torch.arange(1000.0)[:, None].expand(-1, 4) / 1000
    seen = []
    at_rest = ppvae.inference.ledger.decomposition._at_rest
    monkeypatch.setattr(
        "ppvae.inference.ledger.decomposition._at_rest",
        lambda pair, data, *settings, **how: (seen.append(data), at_rest(pair, data, *settings, **how))[1],
    )
    ppvae.gap(pair, torch.randn(50, 4), "quick", train=train, **quiet)
    assert len(seen[1]) == 50
    assert seen[1][:, 0].unique().numel() == 50
    assert 0.4 < seen[1].mean() < 0.6


def test_it_says_what_more_time_would_buy(float64):
    """Of K weights that are Exp(1) the mean has relative variance 1/K; the logarithm loses half of it."""
    report = ppvae.gap(rotated(), torch.randn(20, 8), replace(QUICK, evidence="iwae"), **quiet)
    K = 50
    error = torch.full((20,), K**-0.5)
    elbo = replace(report.elbo, std_error=torch.zeros(20))
    level = elbo.estimate + torch.linspace(1, 3, 20)
    sure = replace(report.log_evidence, estimate=level, std_error=error, reliable=torch.ones(20) > 0)
    spread = torch.linspace(1, 3, 20).var() / 20
    left = (spread - error.square().mean() / 20).sqrt()
    expected = f"from {spread.sqrt():.3f} to {left:.3f}, and log p(x) up by {1 / (2 * K):.3f} nats."
    assert expected in verdict(replace(report, log_evidence=sure, elbo=elbo))
    unsure = replace(sure, reliable=torch.zeros(20) > 0)
    assert "cannot be known from here" in verdict(replace(report, log_evidence=unsure, elbo=elbo))


def test_a_part_may_be_surer_than_the_gap(float64):
    """Noisy evidence hides the gap, but not what the data points' own guides gain, and that is named."""
    report = ppvae.gap(rotated(), torch.randn(20, 8), QUICK, **quiet)
    level = report.log_evidence.estimate
    noise = torch.linspace(-3, 3, 20)

    def line(below):
        return ppvae.Measurement(level - below, torch.full((20,), 0.01), 100, "made up")

    unsure = replace(report, elbo=line(0.2 + noise), measured={"elbo_refined": line(noise)})
    assert unsure.gap.mean().estimate < 2 * unsure.gap.mean().std_error
    assert "The guide is not what keeps it low" not in verdict(unsure)
    assert "The main cause is amortization (0.20" in verdict(unsure)


def test_it_says_where_more_time_buys_nothing(float64):
    report = ppvae.gap(rotated(), torch.randn(20, 8), QUICK, **quiet)
    level = report.elbo.estimate + torch.linspace(1, 3, 20)
    exact = replace(report.log_evidence, estimate=level, std_error=torch.zeros(20), reliable=torch.ones(20) > 0)
    said = verdict(replace(report, log_evidence=exact, elbo=replace(report.elbo, std_error=torch.zeros(20))))
    assert "is the spread over data points; more time would not lower it.\n" in said


def test_a_small_gap_is_told_from_none(float64):
    """What is below the least cost of a cause, but beyond its error, is no error."""
    report = ppvae.gap(rotated(), torch.randn(20, 8), QUICK, **quiet)
    for size, said in ((0.03, "the gap is less than the 0.05 nats"), (0.0, "no gap is seen beyond its error")):
        near = replace(report.log_evidence, estimate=report.elbo.estimate + size, std_error=torch.full((20,), 0.001))
        near = replace(near, reliable=torch.ones(20) > 0)
        assert said in verdict(replace(report, log_evidence=near, elbo=replace(report.elbo, std_error=torch.zeros(20))))
