"""A guide that learns nothing has no amortization gap: the ledger says so in words, and puts nothing in its place."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.diffusion_oracle import exact_elbo, marginal, optimal
from torch import nn

import ppvae
from ppvae import Effort, GapReport, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.fixed_guide import amortization_undefined
from ppvae.inference.ledger.verdicts import causes
from ppvae.models import DiffusionVAE, GaussianMixture, LinearVAE, MLPDenoiser

quiet = {"progress": False, "seed": 0}


class Guided(Pair):
    """z ~ N(0, I) in the plane, x | z ~ N((z_1 + z_2) / 2, 1), with a guide that is given."""

    def __init__(self, guide=None, **modules):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.site = guide
        for name, module in modules.items():
            setattr(self, name, module)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.mean(-1) + self.shift, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            if self.site:
                pyro.sample("z", self.site(self, x))

    def log_prob(self, x):
        return dist.Normal(self.shift, 1.5**0.5).log_prob(x)


def formula(pair, x):
    """The exact means, with the best diagonal scale: precision of each latent 1.25, correlated by 0.25."""
    return dist.Normal((x / 3).unsqueeze(-1).expand(-1, 2), 1.25**-0.5).to_event(1)


FIXED = "the guide is fixed: it has no parameters to learn"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Guided(formula), FIXED),
        (lambda: Guided(lambda p, x: dist.Normal(p.f(x.unsqueeze(-1)), 1.0).to_event(1), f=nn.Linear(1, 2)), ""),
        (lambda: Guided(lambda p, x: dist.Delta(p.f(x.unsqueeze(-1))).to_event(1), f=nn.Linear(1, 2)), ""),
        (lambda: Guided(lambda p, x: dist.Normal(p.shift + torch.zeros(2), 1.0).to_event(1)), ""),
        (lambda: Guided().requires_grad_(False), ""),
        (lambda: LinearVAE(2, 1), ""),
        (lambda: LinearVAE(2, 1).requires_grad_(False), ""),
        (lambda: GaussianMixture(2, 2), ""),
        (lambda: GaussianMixture(2, 2, guide="amortized"), ""),
        (lambda: DiffusionVAE(MLPDenoiser(2, [4]), [2], 3), DiffusionVAE.amortization_undefined),
        (lambda: DiffusionVAE(MLPDenoiser(2, [4]), [2], 3, schedule="learned"), DiffusionVAE.amortization_undefined),
    ],
)
def test_fixed_guides_are_told_from_those_that_learn(make, expected):
    """By what reaches the guide, drawn or scored, frozen or not; a diffusion says it of itself."""
    pair = make()
    before = [p.requires_grad for p in pair.parameters()]
    x = torch.randn(3) if isinstance(pair, Guided) else torch.randn(3, 2)
    assert amortization_undefined(pair, x) == expected
    assert [p.requires_grad for p in pair.parameters()] == before
    assert all(p.grad is None for p in pair.parameters())


@pytest.mark.slow(28)
def test_the_whole_gap_of_a_fixed_guide_is_its_familys(float64, monkeypatch):
    """And what a full covariance would close of it is measured all the same: all, as it is of correlation alone.

    The gap is 0.02 nats. On the usual 100 draws that is one standard error, and a sixth of the fits would be given up.
    """
    monkeypatch.setattr("ppvae.inference.ledger.richer_families.SELECTION_SAMPLES", 5000)
    pair, x = Guided(formula), torch.randn(30)
    precision = torch.eye(2) + 0.25
    gap = (precision.diagonal().log().sum() - torch.logdet(precision)).item() / 2
    report = ppvae.gap(pair, x, Effort("exact", num_samples=2000), train=torch.randn(60), **quiet)
    assert report.amortization_undefined == FIXED
    assert report.amortization_gap is report.training_gap is report.elbo_refined is None
    assert torch.equal(report.approximation_gap.estimate, report.gap.estimate)
    for line, expected in ((report.gap, gap), (report.correlation_gap, gap), (report.remaining_gap, 0.0)):
        mean = line.mean()
        assert abs(mean.estimate - expected) < 4 * mean.monte_carlo_error + 1e-3
    parts = report.correlation_gap.estimate + report.shape_gap.estimate + report.remaining_gap.estimate
    torch.testing.assert_close(parts, report.gap.estimate, rtol=0, atol=1e-12)


def known(pair):
    """The pair of the oracle, with its exact log p(x)."""
    pair.log_prob = lambda x: marginal(pair).log_prob(x)
    return pair


@pytest.fixture
def report(float64):
    pair = known(optimal(3))
    x = marginal(pair).sample((40,)).detach()
    effort = Effort("exact", num_samples=1000, ascent=Ascent(max_steps=100), restarts=0, richer=False)
    return pair, x, ppvae.gap(pair, x, effort, train=x, **quiet)


def test_ledger_of_a_diffusion(report):
    pair, x, report = report
    expected = (marginal(pair).log_prob(x) - exact_elbo(pair, x)).mean().item()
    for line in (report.gap, report.approximation_gap):
        mean = line.mean()
        assert abs(mean.estimate - expected) < 4 * mean.monte_carlo_error
    assert list(report.latents) == ["x3", "x2", "x1"]
    assert report.train.amortization_undefined == report.amortization_undefined
    assert len(report.plot().axes) == 2


def test_table_and_verdict_say_so_in_words(report):
    _, _, report = report
    row = "  of it: amortization (undefined: the guide is fixed)"
    table = report.summary()
    assert table.loc[row].isna().all()
    assert list(table.index[2:5]) == ["gap, log p(x) - ELBO", "  of it: the guide's family", row]
    said = report.verdict()
    assert f"Amortization is undefined, not zero: {DiffusionVAE.amortization_undefined}." in said
    assert [cause.name for cause in causes(report)] == ["family"]
    assert f"The guide, which cannot learn, is {report.mean().estimate:.2f} nats from the posterior." in said
    assert "training_gap" not in said


def test_report_is_kept(report, tmp_path):
    _, _, report = report
    report.save(tmp_path / "report")
    found = GapReport.load(tmp_path / "report")
    assert str(found) == str(report)
    assert found.amortization_undefined == report.amortization_undefined
    assert report.to_arviz()["ledger"].attrs["amortization_undefined"] == report.amortization_undefined


def test_quick_says_so_too(float64):
    pair = known(optimal(3))
    report = ppvae.gap(pair, torch.randn(5, 3), "quick", **quiet)
    assert "Amortization is undefined, not zero" in report.verdict()
    assert math.isclose(report.approximation_gap.mean().estimate, report.mean().estimate)
