"""A Delta on a continuous latent has no density: it is trained with (MAP), and measured by nothing, whoever asks."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from support.functions import Functions, assert_says, normal, refusal
from torch import nn

import ppvae
from ppvae import ContractError, Pair
from ppvae.supports import refuse_unlike
from ppvae.tracing import trace_pair
from ppvae.weights import draw_weights

pytestmark = pytest.mark.usefixtures("float64")
PRIOR_SCALE = 0.5


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), PRIOR_SCALE).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


WRAPPED = {
    "event_dim": lambda point: dist.Delta(point, event_dim=1),
    "to_event": lambda point: dist.Delta(point).to_event(1),
    "mask": lambda point: dist.Delta(point, event_dim=1).mask(True),
    "inner mask": lambda point: dist.Delta(point).mask(True).to_event(1),
    "expand": lambda point: ExpandedDistribution(dist.Delta(point), point.shape).to_event(1),
    "transform": lambda point: dist.TransformedDistribution(
        dist.Delta(point / 2), [dist.transforms.AffineTransform(0.0, 2.0)]
    ).to_event(1),
}


class Point(Pair):
    """The guide is a point; the best one is the posterior's mode, `x PRIOR_SCALE^2 / (1 + PRIOR_SCALE^2)`."""

    def __init__(self, wrap="event_dim"):
        super().__init__()
        self.wrap, self.slope = WRAPPED[wrap], nn.Parameter(torch.tensor(1.0))

    def model(self, x):
        model(x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.wrap(self.slope * x))


@pytest.fixture
def x():
    return torch.randn(6, 2)


OBJECTIVES = [ppvae.ELBO(), ppvae.ELBO(3, kl="monte_carlo"), ppvae.ELBO(2, gradient="stl"), ppvae.IWAE(4)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_training_ascends_the_joint_density(objective, x):
    """In value and gradient, written out, and as Pyro has it."""
    pair = Point()
    value, surrogate = objective(pair, x)
    log_joint = (normal(pair.slope * x, 0.0, PRIOR_SCALE) + normal(x, pair.slope * x, 1.0)).sum(-1)
    torch.testing.assert_close(value, log_joint)
    (found,) = torch.autograd.grad(surrogate, pair.slope)
    torch.testing.assert_close(found, torch.autograd.grad(log_joint.mean(), pair.slope)[0])
    pyros = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    torch.testing.assert_close(found, -torch.autograd.grad(pyros, pair.slope)[0] / len(x))


def test_it_is_fitted_to_the_mode(x):
    pair = Point()
    pair.check(x)
    ppvae.fit(pair, x, steps=300, lr=0.05, progress=False)
    assert pair.slope.item() == pytest.approx(PRIOR_SCALE**2 / (1 + PRIOR_SCALE**2), abs=1e-3)


@pytest.mark.parametrize(
    "objective",
    [ppvae.ELBO(2, gradient="score"), ppvae.VIMCO(3), *map(partial(ppvae.RWS, 3, "score"), ("wake", "sleep"))],
    ids=str,
)
def test_a_score_that_is_zero_is_refused(objective, x):
    with pytest.raises(ContractError, match=r"guide site 'z': found Delta, whose score is zero"):
        objective(Point(), x)


MEASURES = {
    **{
        method: lambda pair, x, method=method: ppvae.log_evidence(pair, x, method, 20, progress=False)
        for method in ("auto", "iwae", "ais", "ais from prior", "best", "bdmc")
    },
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 5, progress=False),
    "elbo_terms": lambda pair, x: ppvae.elbo_terms(pair, x, 5, progress=False),
    "bound_curve": lambda pair, x: ppvae.bound_curve(pair, x, [2, 4], progress=False),
    "quick gap": lambda pair, x: ppvae.gap(pair, x, "quick", progress=False),
    "gap": lambda pair, x: ppvae.gap(pair, x, progress=False),
    "calibration": lambda pair, x: ppvae.calibration(pair, 10, 5, progress=False),
    "expected_coverage": lambda pair, x: ppvae.expected_coverage(pair, 10, 5, progress=False),
    "local_classifier_test": lambda pair, x: ppvae.local_classifier_test(pair, x, 10, 5, progress=False),
    **{
        way: lambda pair, x, way=way: ppvae.to_arviz(pair, x, posterior=way, num_samples=5, progress=False)
        for way in ("resampled", "refined", "annealed")
    },
    "JVI": lambda pair, x: torch.no_grad()(ppvae.JVI(4))(pair, x),
    "SUMO": lambda pair, x: torch.no_grad()(ppvae.SUMO(4))(pair, x),
}
SAID = r"guide site 'z': found Delta, a point without a density, .* \(Normal\), .* Normal\(point, scale\)"


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_no_measurement_takes_it(measure, x):
    pair = Point()
    pair.check(x)
    with pytest.raises(ContractError, match=SAID):
        measure(pair, x)


@pytest.mark.parametrize("wrap", WRAPPED)
def test_it_is_known_in_any_wrapping(wrap, x):
    pair = Point(wrap)
    if wrap != "transform":  # whose Jacobian Pyro counts
        torch.testing.assert_close(ppvae.ELBO()(pair, x)[0], ppvae.ELBO()(Point(), x)[0])
    with pytest.raises(ContractError, match=SAID):
        ppvae.elbo(pair, x, progress=False)


def test_an_auto_delta_is_one(x):
    pair = Functions(model, AutoDelta(model))
    with pytest.raises(ContractError, match=SAID):
        refuse_unlike(trace_pair(pair, x, 1))


def test_its_draws_are_exported_without_weights(x):
    pair = Point()
    pair.check(x)
    found = ppvae.to_arviz(pair, x, num_samples=3, progress=False)
    assert set(found.sample_stats.data_vars) == {"log_p"}
    torch.testing.assert_close(torch.tensor(found.posterior["z"].values[0, 0]), pair.slope.detach() * x)


def test_the_remedy_works(x):
    """The refusal says: Normal(point, scale)."""
    pair = Point()
    pair.slope.data.fill_(PRIOR_SCALE**2 / (1 + PRIOR_SCALE**2))
    pair.wrap = lambda point: dist.Normal(point, 0.4).to_event(1)
    exact = normal(x, 0.0, (1 + PRIOR_SCALE**2) ** 0.5).sum(-1)
    found = ppvae.log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()


def test_a_point_of_a_discrete_latent_has_a_probability():
    """`log p(x, c)` at the value chosen; the evidence, summed out, is exact."""
    means, prior = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.7])

    def mixture(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(means[pyro.sample("c", dist.Categorical(prior))], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Delta((x > 0).long()))

    x = torch.randn(5)
    pair, log_joint = Functions(mixture, guide), prior.log() + normal(x[:, None], means, 1.0)
    chosen = log_joint.gather(1, (x > 0).long()[:, None])[:, 0]
    torch.testing.assert_close(ppvae.elbo(pair, x, progress=False).estimate, chosen)
    torch.testing.assert_close(ppvae.log_evidence(pair, x, progress=False).estimate, log_joint.logsumexp(1))


def test_a_point_in_the_model_too_is_no_latent():
    """A value that model and guide compute alike, and name."""

    def shifted(x):
        with pyro.plate("data", len(x)):
            shift = pyro.sample("shift", dist.Delta(torch.full((len(x),), 2.0)))
            pyro.sample("x", dist.Normal(shift, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("shift", dist.Delta(torch.full((len(x),), 2.0)))

    x = torch.randn(5)
    found = ppvae.log_evidence(Functions(shifted, guide), x, "iwae", 20, progress=False)
    torch.testing.assert_close(found.estimate, normal(x, 2.0, 1.0))


def test_a_point_with_a_density_of_its_own_is_measured(x):
    """A draw by hand, and its log density: the exact posterior, so the weights are all p(x)."""
    gain, scale = PRIOR_SCALE**2 / (1 + PRIOR_SCALE**2), (PRIOR_SCALE**2 / (1 + PRIOR_SCALE**2)) ** 0.5

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = torch.randn(3, *x.shape)
            density = (normal(noise, 0.0, 1.0) - torch.tensor(scale).log()).sum(-1)
            pyro.sample("z", dist.Delta(gain * x + scale * noise, log_density=density, event_dim=1))

    weights = draw_weights(Functions(model, guide), x, 3)
    exact = normal(x, 0.0, (1 + PRIOR_SCALE**2) ** 0.5).sum(-1)
    torch.testing.assert_close(weights.log_w, exact.expand(3, 6))
    refuse_unlike(trace_pair(Functions(model, guide), x, 3))


class ByHand(Point):
    """Draws by hand, at points with a density of their own: a Normal guide, written otherwise."""

    def __init__(self, by_hand=True):
        super().__init__()
        self.by_hand, self.log_scale = by_hand, nn.Parameter(torch.tensor(-0.5))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            q = dist.Normal(self.slope * x, self.log_scale.exp()).to_event(1)
            z = q.rsample()
            pyro.sample("z", dist.Delta(z, log_density=q.log_prob(z), event_dim=1) if self.by_hand else q)


def in_the_mean(objective, pair, x, repeats=100):
    """Value and gradients over draws, and their standard errors."""
    found = []
    for _ in range(repeats):
        value, surrogate = objective(pair, x)
        found.append(torch.stack([value.mean().detach(), *torch.autograd.grad(surrogate, list(pair.parameters()))]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / repeats**0.5


@pytest.mark.parametrize("objective", [ppvae.ELBO(3, kl="monte_carlo"), ppvae.IWAE(3)], ids=str)
def test_draws_by_hand_are_those_of_each_particle(objective):
    """With particles leading the guide would draw once for all: it is run by rows, and is the Normal guide."""
    x, by_hand, plain = torch.randn(4, 2).repeat(50, 1), ByHand(), ByHand(by_hand=False)
    with pytest.warns(UserWarning, match="guide site 'z': found one draw for all particles where they lead"):
        by_hand.check(x)
    assert (by_hand.particles, by_hand.guide_leads) == ("rows", False)
    (found, a), (expected, b) = (in_the_mean(objective, pair, x) for pair in (by_hand, plain))
    assert ((found - expected) / (a**2 + b**2).sqrt()).abs().max() < 4.5


NEED_A_SLOPE = [
    ppvae.ELBO(2, gradient="stl"),
    ppvae.IWAE(3, "stl"),
    ppvae.IWAE(3, "dreg"),
    ppvae.ELBO(2, gradient="score"),
]
NEED_A_SLOPE += [ppvae.VIMCO(3), ppvae.RWS(3), ppvae.RWS(3, phase="sleep"), ppvae.CUBO(3), ppvae.TVO(3)]


@pytest.mark.parametrize("objective", NEED_A_SLOPE, ids=str)
def test_a_density_that_is_a_number_has_neither_slope_nor_score(objective, x):
    """Sticking the landing would leave out all of log q, and with it the guide's entropy."""
    with pytest.raises(ContractError, match=r"guide site 'z': found Delta with a log_density, .*'reparameterized'"):
        objective(ByHand(), x)


def test_a_point_of_the_model_alone_is_told_to_be_named():
    """Pyro's old idiom for `pyro.deterministic`."""

    def model(x, name=lambda value: pyro.sample("twice", dist.Delta(value))):
        with pyro.plate("data", len(x)):
            twice = name(2 * pyro.sample("z", dist.Normal(0.0, 1.0)))
            pyro.sample("x", dist.Normal(twice / 2, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(5)
    assert_says(refusal(Functions(model, guide), x), "site 'twice'", "pyro.deterministic('twice', ...)")
    named = Functions(lambda x: model(x, lambda value: pyro.deterministic("twice", value)), guide)
    assert torch.allclose(named.log_weights(x).log_w, dist.Normal(0.0, 2**0.5).log_prob(x))
