"""Guides with parameters of each data point do not amortize: the ledger says so, and calls what they lack training."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import ppvae
from ppvae import Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.effort import Effort
from ppvae.inference.ledger.local_parameters import UNDEFINED, has_local_parameters
from ppvae.inference.ledger.verdicts import causes
from ppvae.models import GaussianMixture, LinearVAE

pytestmark = pytest.mark.usefixtures("float64")
NUM = 8
QUIET = {"seed": 0, "progress": False}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def indexed_model(x, index):
    model(x)


def by_index(x, index):
    loc = pyro.param("loc", torch.zeros(NUM))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc[index], 1.0))


def by_index_with_a_shared_scale(x, index):
    loc, scale = pyro.param("loc", torch.zeros(NUM)), pyro.param("scale", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc[index], scale))


def amortized(x):
    slope = pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 1.0))


def fixed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


@pytest.fixture(autouse=True)
def empty_store():
    with pyro.get_param_store().scope():
        yield


X, INDEX = torch.linspace(-2.0, 2.0, NUM).double(), torch.arange(NUM)
PAIRS = {
    "AutoNormal": (lambda: Pair.of(model, AutoNormal(model), X), X, True),
    "by index": (lambda: Pair.of(indexed_model, by_index, (X, INDEX)), (X[:4], INDEX[:4]), True),
    "shared scale": (lambda: Pair.of(indexed_model, by_index_with_a_shared_scale, (X, INDEX)), (X, INDEX), False),
    "amortized": (lambda: Pair.of(model, amortized, X), X, False),
    "fixed": (lambda: Pair.of(model, fixed, X), X, False),
    "LinearVAE": (lambda: LinearVAE(3, 2), torch.randn(5, 3).double(), False),
    "discrete": (lambda: GaussianMixture(2, 2, guide="amortized"), torch.randn(5, 2).double(), False),
    "one row": (lambda: Pair.of(model, amortized, X), X[:1], False),
}


@pytest.mark.parametrize(("make", "batch", "expected"), PAIRS.values(), ids=PAIRS)
def test_they_are_told_by_what_two_data_points_share(make, batch, expected):
    assert has_local_parameters(make(), batch) == expected


@pytest.fixture
def report():
    """The exact posterior is N(x / 2, 1/2); AutoNormal starts at loc 0 and scale 1/2, the square root of 1/4."""
    pair = Pair.of(model, AutoNormal(model, init_scale=0.5), X)
    effort = Effort("iwae", num_particles=3000, num_samples=3000, ascent=Ascent(), restarts=0, richer=False)
    return ppvae.gap(pair, X, effort, **QUIET)


def test_what_refining_gains_is_training(report):
    kl = torch.distributions.kl_divergence(dist.Normal(torch.zeros(NUM), 0.5), dist.Normal(X / 2, 0.5**0.5))
    assert report.amortization_undefined == UNDEFINED
    assert report.amortization_gap is None
    error = report.training_gap.std_error
    assert ((report.training_gap.estimate - kl).abs() < 5 * error + 5e-3).all()
    total = report.approximation_gap.estimate + report.training_gap.estimate
    torch.testing.assert_close(total, report.gap.estimate, rtol=0, atol=1e-12)
    assert report.approximation_gap.mean().estimate < report.training_gap.mean().estimate / 5


def test_table_and_verdict_say_so(report, tmp_path):
    table = report.summary()
    row = "  of it: amortization (undefined: each data point has its own parameters)"
    assert table.loc[row].isna().all()
    assert table.index[list(table.index).index(row) + 1] == "    more training of the guide closes"
    said = report.verdict()
    assert f"Amortization is undefined, not zero: {UNDEFINED}. What refining them gains is training." in said
    assert next(cause.name for cause in causes(report)) == "training"
    report.save(tmp_path / "report")
    assert str(ppvae.GapReport.load(tmp_path / "report")) == str(report)


@pytest.mark.slow(4)
def test_quick_calls_nothing_the_familys():
    pair = Pair.of(model, AutoNormal(model), X)
    report = ppvae.gap(pair, X, "quick", **QUIET)
    assert report.amortization_undefined == UNDEFINED
    assert report.approximation_gap is report.training_gap is report.amortization_gap is None
