"""Advice that was tried: what a second encoder, heads and model samples gain, against closed forms."""

from dataclasses import replace

import pytest
import torch
from support.zoo import ZOO
from torch import nn

import ppvae
from ppvae import AIS, Effort
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.head import Head
from ppvae.inference.ledger.second_encoder import SecondEncoder
from ppvae.inference.ledger.verdicts import causes
from ppvae.models import LinearVAE

EFFORT = Effort("exact", annealing=(AIS(),), num_samples=200, ascent=Ascent(max_steps=100), restarts=0, refit_steps=400)
PLAIN = Effort("exact", num_samples=200, ascent=Ascent(max_steps=100), restarts=0, richer=False, refit_steps=400)
quiet = {"seed": 0, "progress": False}


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def rotated():
    """Two latents whose posterior is correlated: a diagonal guide falls short by a known number of nats."""
    pair = LinearVAE(6, 2)
    pair.weight.data = 2 * torch.randn(6, 1) + 0.3 * torch.randn(6, 2)
    pair.fit_guide()
    return pair, pair.sample(500), pair.sample(40)


def squeezed():
    """All of x passes through one number on its way to two latents, whose posterior is a diagonal Gaussian."""
    pair = LinearVAE(6, 2)
    pair.weight.data = torch.linalg.qr(torch.randn(6, 2))[0] * torch.tensor([3.0, 2.0])
    pair.fit_guide()
    train, test = pair.sample(500), pair.sample(40)
    for p in (pair.weight, pair.mean, pair.log_sigma):
        p.requires_grad_(False)
    pair.encoder = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 2))
    ppvae.fit(pair, train, epochs=100, lr=1e-2, progress=False)
    return pair, train, test


@pytest.mark.parametrize("particles", ["leading", "rows"])
@pytest.mark.parametrize("name", ["linear", "labeled", "hierarchy", "mixture posterior", "amortized mixture"])
def test_before_training_a_second_encoder_changes_nothing(name, particles):
    pair, batch = ZOO[name].make()
    pair.particles = particles
    second = SecondEncoder(pair, batch)
    found = []
    for each in (pair, second):
        torch.manual_seed(0)
        found.append(each.log_weights(batch, 3).log_w)
    torch.testing.assert_close(*found)
    second.check(batch)


@pytest.mark.parametrize("family", ["full_rank", "flow"])
@pytest.mark.parametrize("name", ["linear", "positive", "hierarchy"])
def test_the_weights_of_a_head_have_the_mean_evidence(name, family):
    """Whatever its parameters are: here moved at random from those of the identity, and different for each datum."""
    pair, batch = ZOO[name].make()
    head = Head(pair, batch, family).eval()
    with torch.no_grad():
        for p in head.own():
            p.add_(0.01 * torch.randn_like(p))
        log_p = ppvae.log_evidence(pair, batch, "iwae", 50_000, **quiet)
        weights = (head.log_weights_of_head(batch, 20_000) - log_p.estimate).exp()
    error = torch.hypot(weights.std(0) / 20_000**0.5, log_p.std_error)
    assert ((weights.mean(0) - 1) / error).abs().max() < 4.5
    assert error.median() < 0.1


@pytest.mark.slow(20)
def test_a_full_rank_head_gains_what_the_family_costs():
    """`(sum log M_jj - log det M) / 2`, for all data points alike, so that one network can."""
    pair, train, test = rotated()
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    report = ppvae.gap(pair, test, EFFORT, train=train, **quiet)
    [cause] = causes(report)
    exact = pair.factorized_gap().item()
    assert cause.name == "correlation"
    assert cause.nats == pytest.approx(exact, abs=4 * cause.monte_carlo_error + 0.01)
    assert 0.9 * exact < cause.forecast.estimate < exact + 4 * cause.forecast.monte_carlo_error
    assert f"that gained {cause.forecast.estimate:z.2f} +- " in report.verdict()
    assert report.elbo_second_encoder is None  # there is nothing for it to close
    assert all(torch.equal(t, before[name]) for name, t in pair.state_dict().items())


@pytest.mark.slow(20)
def test_a_second_encoder_gains_what_a_narrow_one_lacks():
    pair, train, test = squeezed()
    report = ppvae.gap(pair, test, PLAIN, train=train, **quiet)
    first, *_ = causes(report)
    alone = max(line.mean().estimate for line in (report.elbo_refitted, report.elbo_control))
    gain = report.elbo_second_encoder.mean().estimate - alone
    assert first.name == "capacity"
    assert first.nats == first.forecast.estimate == pytest.approx(gain)
    assert 0.8 < gain / report.capacity_gap.mean().estimate <= 1


@pytest.mark.slow(15)
def test_what_more_training_gains_is_no_remedys():
    """An encoder that is far from trained: samples of the model gain what as many steps on data gain anyway."""
    torch.manual_seed(0)
    pair = LinearVAE(8, 2).fit_guide()
    with torch.no_grad():
        pair.encoder.weight.zero_()
        pair.encoder.bias.zero_()
    train, test = pair.sample(2000), pair.sample(60)
    report = ppvae.gap(pair, test, replace(PLAIN, refit_steps=15), train=train, **quiet)
    control, samples, refitted = (
        getattr(report, f"elbo_{name}").mean().estimate for name in ("control", "model_samples", "refitted")
    )
    assert control - refitted > 0.2
    assert samples - refitted > 0.2
    assert "generalization" not in [cause.name for cause in causes(report)]
    assert causes(report)[0].name == "training"


@pytest.mark.slow(20)
def test_an_encoder_of_few_data_points_gains_by_samples_of_the_model():
    """A wide encoder of ten data points, whose model is right: samples of it are as good as data."""
    pair, _, test = rotated()
    train = pair.sample(10)
    for p in (pair.weight, pair.mean, pair.log_sigma):
        p.requires_grad_(False)
    pair.encoder = nn.Sequential(nn.Linear(6, 100), nn.ReLU(), nn.Linear(100, 2))
    ppvae.fit(pair, train, steps=1500, lr=3e-3, progress=False)
    report = ppvae.gap(pair, test, PLAIN, train=train, **quiet)
    found = {cause.name: cause for cause in causes(report)}
    assert found["generalization"].forecast.estimate > 4 * found["generalization"].monte_carlo_error
    assert "capacity" not in found or found["capacity"].nats < found["generalization"].nats


@pytest.mark.parametrize(
    ("name", "message"),
    [("amortized mixture", "which is discrete"), ("mixture posterior", "draws without gradients")],
)
def test_what_has_no_head_is_refused(name, message):
    pair, batch = ZOO[name].make()
    with pytest.raises(ppvae.ContractError, match=message):
        Head(pair, batch, "flow")


@pytest.mark.parametrize(("gained", "names"), [(0.3, ["amortization"]), (0.9, ["capacity", "amortization"])])
def test_where_training_is_not_over_a_second_encoder_must_gain_more_than_training(gained, names):
    """Else it may but learn faster: its networks were once called too small for what longer training closed."""
    pair = LinearVAE(6, 2).fit_guide()
    report = ppvae.gap(pair, pair.sample(20), replace(PLAIN, ascent=None, refit_steps=0), **quiet)

    def line(below):
        return ppvae.Measurement(report.log_evidence.estimate - below, torch.full((20,), 0.01), 100, "made up")

    lines = {"elbo_refined": 0.0, "elbo_refitted": 2.0, "elbo_control": 1.6, "elbo_second_encoder": 1.6 - gained}
    report = replace(report, elbo=line(2.0), measured={name: line(below) for name, below in lines.items()})
    found = causes(report)
    assert sorted(cause.name for cause in found) == sorted(names)
    left = next(cause for cause in found if cause.name == "amortization")
    assert left.nats == pytest.approx(1.6 if gained < 0.4 else 0.7)
    assert ("whose last round still gained 0.40" in left.says) == (gained < 0.4)
