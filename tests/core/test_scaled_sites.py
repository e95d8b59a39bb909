"""`poutine.scale` weighs terms in training, as in Pyro; what is measured leaves it out, and says so."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from support.compiled_runs import run_as_traced
from support.functions import normal
from torch import nn

import ppvae
from ppvae import AIS, ContractError, Effort, Pair
from ppvae.inference.ledger.ascent import Ascent

pytestmark = pytest.mark.usefixtures("float64")
NUM = 6


class Weighted(Pair):
    """`z ~ N(mean, 1)`, `x ~ N(z, 1)`, with a scale for each of the sites, and perhaps a subsampled plate."""

    def __init__(self, prior=1.0, likelihood=1.0, guide=1.0, full=NUM):
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.6))
        self.weights, self.full = (prior, likelihood, guide), full

    def plate(self, x):
        return pyro.plate("data", self.full, subsample=torch.arange(len(x)))

    def model(self, x):
        prior, likelihood, _ = self.weights
        with self.plate(x):
            with poutine.scale(scale=prior):
                z = pyro.sample("z", dist.Normal(self.mean, 1.0))
            with poutine.scale(scale=likelihood):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with self.plate(x), poutine.scale(scale=self.weights[2]):
            pyro.sample("z", self.posterior(x))

    def posterior(self, x):
        return dist.Normal(x / 3 + self.mean / 2, self.scale)

    def exact(self, x):
        return normal(x, self.mean, 2**0.5).detach()

    def weighed(self, x):
        """The expected weighed bound, written out, for a Gaussian guide."""
        prior, likelihood, guide = self.weights
        mean, variance = x / 3 + self.mean / 2, self.scale**2
        fits = -((x - mean) ** 2 + variance) / 2 - math.log(2 * math.pi) / 2
        likely = -((mean - self.mean) ** 2 + variance) / 2 - math.log(2 * math.pi) / 2
        return likelihood * fits + prior * likely + guide * (self.scale.log() + (1 + math.log(2 * math.pi)) / 2)


@pytest.fixture
def x():
    return torch.randn(NUM)


ROWS = torch.tensor([1e-6, 1e-6, 1e-6, 1.0, 1.0, 2.0], dtype=torch.float64)
SCALES = {
    "all alike": (3.0, 3.0, 3.0),
    "KL": (0.2, 1.0, 0.2),
    "likelihood": (1.0, 0.5, 1.0),
    "guide and model differ": (1.0, 1.0, 0.5),
    "rows": (ROWS, ROWS, ROWS),
    "a tensor": (torch.tensor(0.7), 1.0, torch.tensor(0.7)),
}


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "score"])
def test_gradients_are_those_of_the_weighed_terms(scales, kl, gradient, x):
    """Of model and guide; the value stays the bound's. The plate's own scale, of a larger data set, never enters."""
    pair = Weighted(*scales, full=50)
    expected = torch.stack(torch.autograd.grad(pair.weighed(x).mean(), list(pair.parameters())))
    draws, values = [], []
    for _ in range(60):
        value, surrogate = ppvae.ELBO(100, kl=kl, gradient=gradient)(pair, x)
        draws.append(torch.stack(torch.autograd.grad(surrogate, list(pair.parameters()))))
        values.append(value.detach())
    for found, exact in ((torch.stack(draws), expected), (torch.stack(values), Weighted().weighed(x).detach())):
        assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / 60**0.5 + 1e-12).all()


@pytest.mark.parametrize("case", SCALES)
def test_gradients_are_pyros(case, x):
    """With the same noise. `TraceMeanField_ELBO` has the guide's scale for a closed-form KL, whatever the model's."""
    pair = Weighted(*SCALES[case])
    for loss, kl in ((Trace_ELBO(), "monte_carlo"), (TraceMeanField_ELBO(), "auto")):
        if kl == "auto" and case == "guide and model differ":
            continue
        torch.manual_seed(1)
        _, surrogate = ppvae.ELBO(kl=kl)(pair, x)
        found = torch.autograd.grad(surrogate * NUM, list(pair.parameters()))
        torch.manual_seed(1)
        pyros = loss.differentiable_loss(pair.model, pair.guide, x)
        expected = torch.autograd.grad(-pyros, list(pair.parameters()))
        torch.testing.assert_close(found, expected)


class Annealed(Weighted):
    """Its scales are tensors that come with the data; the guide's is its own from 0.5 on."""

    def __init__(self, own):
        super().__init__()
        self.own = own

    def model(self, x, beta):
        self.weights = beta, 1.0, beta.clamp(max=0.5) if self.own else beta
        super().model(x)

    def guide(self, x, beta):
        self.weights = beta, 1.0, beta.clamp(max=0.5) if self.own else beta
        super().guide(x)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_programs_take_scales_that_are_tensors(own, kl, monkeypatch, caplog):
    """Whether a closed form holds may change from step to step."""
    run_as_traced(monkeypatch)
    runs = []
    for compile in (False, True):
        torch.manual_seed(0)
        pair, betas = Annealed(own), iter(torch.arange(1, 40) / 20)
        x = torch.linspace(-1, 2, NUM)
        run = ppvae.fit(
            pair,
            {"x": x, "beta": torch.tensor(0.05)},
            ppvae.ELBO(3, kl=kl),
            transform=lambda batch, betas=betas: batch | {"beta": next(betas).clone()},
            steps=30,
            lr=0.05,
            compile=compile,
            progress=False,
        )
        runs.append((pair, torch.as_tensor(run.history["bound_per_step"])))
    (eager, a), (compiled, b) = runs
    assert "uncompiled" not in caplog.text
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(list(eager.parameters()), list(compiled.parameters()))


class Mixture(Pair):
    """Two components; the label is the guide's, or summed out of the model."""

    def __init__(self, label=1.0, likelihood=1.0, guided=True):
        super().__init__()
        self.means, self.logit = nn.Parameter(torch.tensor([-1.0, 1.5])), nn.Parameter(torch.tensor(0.4))
        self.weights, self.guided = (label, likelihood), guided

    def model(self, x):
        label, likelihood = self.weights
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=label):
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
            with poutine.scale(scale=likelihood):
                pyro.sample("x", dist.Normal(self.means[c], 1.0), obs=x)

    def guide(self, x):
        if self.guided:
            with pyro.plate("data", len(x)), poutine.scale(scale=self.weights[0]):
                pyro.sample("c", dist.Categorical(logits=torch.stack([self.logit * x, torch.zeros_like(x)], -1)))


@pytest.mark.parametrize(("weights", "guided"), [((0.5, 2.0), True), ((0.5, 0.5), True), ((0.5, 0.5), False)], ids=str)
def test_enumerated_terms_are_weighed_as_by_pyro(weights, guided, x):
    pair = Mixture(*weights, guided=guided)
    learned = list(pair.parameters()) if guided else [pair.means]
    objective = ppvae.EnumeratedELBO() if guided else ppvae.ELBO()
    value, surrogate = objective(pair, x)
    plain = Mixture(guided=guided)
    torch.testing.assert_close(value, objective(plain, x)[0])
    found = torch.autograd.grad(surrogate * NUM, learned)
    functions = (pair.model, config_enumerate(pair.guide)) if guided else (config_enumerate(pair.model), pair.guide)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(*functions, x)
    torch.testing.assert_close(found, torch.autograd.grad(-pyros, learned))


def test_sites_that_a_summation_ties_must_share_a_scale(x):
    with pytest.raises(ContractError, match=r"model sites \['c', 'x'\]: found different scales .* one poutine.scale"):
        ppvae.ELBO()(Mixture(0.5, 2.0, guided=False), x)


OTHERS = [
    *(objective(3) for objective in (ppvae.IWAE, ppvae.VIMCO, ppvae.CIWAE, ppvae.Renyi, ppvae.VRMax, ppvae.CUBO)),
    *(objective(2, num_groups=2) for objective in (ppvae.MIWAE, ppvae.PIWAE)),
    *(ppvae.TVO(3), ppvae.RWS(3), ppvae.RWS(3, phase="sleep"), ppvae.JVI(4), ppvae.SUMO(4)),
]


@pytest.mark.parametrize("objective", OTHERS, ids=str)
def test_bounds_that_are_no_sum_of_terms_refuse_it(objective, x):
    name = type(objective).__name__
    with (
        torch.set_grad_enabled(not objective.evaluation_only),
        pytest.raises(ContractError, match=rf"site 'z': found scaled by poutine.scale, .* {name} is no sum"),
    ):
        objective(Weighted(2.0, 2.0, 2.0), x)


@pytest.mark.parametrize("objective", OTHERS, ids=str)
def test_they_take_a_subsampled_plate(objective, x):
    with torch.set_grad_enabled(not objective.evaluation_only):
        assert objective(Weighted(full=50), x)[0].isfinite().all()


EFFORT = Effort("iwae", 500, num_samples=200, ascent=Ascent(max_steps=100), restarts=0, refit_steps=0)


def lines(report):
    return torch.stack([line.estimate for line in (report.elbo_refined, report.elbo_full_rank, report.elbo_flow)])


MEASURES = {
    "iwae": lambda pair, x: ppvae.log_evidence(pair, x, "iwae", 500, seed=0, progress=False).estimate,
    "ais": lambda pair, x: (
        ppvae.log_evidence(pair, x, "bdmc", annealing=AIS(8, 20, num_leapfrog=1), seed=0, progress=False).estimate
    ),
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 50, seed=0, progress=False).estimate,
    "terms": lambda pair, x: ppvae.elbo_terms(pair, x, 50, seed=0, progress=False).latents["z"].kl.estimate,
    "curve": lambda pair, x: ppvae.bound_curve(pair, x, [5, 50], seed=0, progress=False).limit.estimate,
    "arviz": lambda pair, x: torch.tensor(
        ppvae.to_arviz(pair, x, posterior="resampled", num_samples=9, seed=0, progress=False)
        .sample_stats["log_w"]
        .values
    ),
    "gap": lambda pair, x: lines(ppvae.gap(pair, x, EFFORT, seed=0, progress=False)),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_what_is_measured_leaves_it_out_and_says_so(measure, x):
    """The same numbers as without; refined guides ascend the bound, not the weighed one."""
    scaled, plain = Weighted(0.3, 2.0, 0.3), Weighted()
    for pair in (scaled, plain):
        pair.check(x)
    with pytest.warns(UserWarning, match=r"sites \['x', 'z'\]: the scale that poutine.scale .* gives them") as said:
        found = measure(scaled, x)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(found, measure(plain, x))


def test_calibration_leaves_it_out(x):
    found, plain = (
        ppvae.calibration(pair, 50, 9, seed=0, progress=False)
        for pair in (Weighted(0.3, 2.0, 0.3), Weighted())
        if pair.check(x) is None
    )
    assert found.equals(plain)


def test_rows_of_no_weight_teach_nothing(x):
    """As a fit on the others."""
    far = torch.where(ROWS < 1, x + 100, x)
    pair = Weighted(ROWS, ROWS, ROWS)
    _, surrogate = ppvae.ELBO(4)(pair, far)
    far_gradient = torch.autograd.grad(surrogate, pair.mean)[0]
    assert far_gradient.abs() < 10


def test_the_exact_value_is_not_that_of_the_gradient(x):
    with pytest.raises(NotImplementedError):
        ppvae.EnumeratedELBO().exact_value(Mixture(0.5, 2.0), x)
    assert ppvae.EnumeratedELBO().exact_value(Mixture(), x).shape == (NUM,)


def test_a_subsampled_plate_of_features_scales_as_a_handler_does():
    """Two of three features, fixed: three halves of their terms in training, and said to be left out elsewhere."""

    class Some(Weighted):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.mean, 1.0))
                for i in pyro.plate("features", 3, subsample=torch.tensor([0, 2])):
                    pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[:, i])

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x[:, 0]))

    pair, x = Some(), torch.randn(NUM, 3)
    with pytest.warns(UserWarning, match=r"sites \['x0', 'x2'\]: the scale .* acts in training alone"):
        found = ppvae.log_evidence(pair, x, "iwae", 5000, seed=0, progress=False)
    two, cov = x[:, [0, 2]], torch.eye(2) + 1
    exact = dist.MultivariateNormal(pair.mean.expand(2).detach(), cov).log_prob(two)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()
    gradients = []
    for loss in (
        lambda: -ppvae.ELBO(3, kl="monte_carlo")(pair, x)[1] * NUM,
        lambda: Trace_ELBO(3, 1, vectorize_particles=True).differentiable_loss(pair.model, pair.guide, x),
    ):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(loss(), [pair.mean, pair.scale]))
    torch.testing.assert_close(*gradients)
