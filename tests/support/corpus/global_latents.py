"""Latents that all rows share have no weight per row: refused, and measured at given values instead."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroSample
from support.corpus.entry import Program, refused
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


def given(log_evidence: Callable | None, **values: Any) -> Callable[[Program], Program]:
    """Follows the remedy `condition={site: value}`; a point in a site's name is written as two underscores."""

    def follow(program: Program) -> Program:
        condition = {name.replace("__", "."): value for name, value in values.items()}
        condition = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in condition.items()}
        return program._replace(condition=condition, log_evidence=log_evidence)

    return follow


class BayesianRegression(PyroModule):
    """The weights of a layer are samples."""

    def __init__(self, inputs=2):
        super().__init__()
        self.linear = PyroModule[nn.Linear](inputs, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, inputs]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression_log_evidence(data):
    return dist.Normal(data[0] @ torch.tensor([0.4, -0.8]) + 0.3, 0.9).log_prob(data[1])


regression_given = given(
    regression_log_evidence,
    linear__weight=[[0.4, -0.8]],
    linear__bias=[0.3],
    sigma=0.9,
)


@refused("condition=", regression_given, "leading")
def bayesian_regression():
    """The guide is automatic."""
    model, data = BayesianRegression(), (torch.randn(5, 2), torch.randn(5))
    return Program(model, AutoNormal(model), data, data)


def weights_as_parameters(program):
    """The other way forward: what all rows share is a parameter."""

    def model(x, y):
        w = pyro.param("w", torch.tensor([0.4, -0.8]))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    def guide(x, y):
        pass

    def exact(data):
        return dist.Bernoulli(logits=data[0] @ torch.tensor([0.4, -0.8])).log_prob(data[1])

    return program._replace(model=model, guide=guide, log_evidence=exact, elbo=exact)


@refused(r"(?i)'w'.*param", weights_as_parameters, "leading")
def logistic_regression():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    def guide(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        pyro.sample("w", dist.Normal(loc, scale).to_event(1))

    data = torch.randn(5, 2), torch.bernoulli(torch.full((5,), 0.5))
    return Program(model, guide, data, data)


def mixture_given_log_evidence(x):
    terms = torch.tensor([0.4, 0.6]).log() + dist.Normal(torch.tensor([-1.0, 2.0]), 0.8).log_prob(x[:, None])
    return terms.logsumexp(-1)


mixture_given = given(mixture_given_log_evidence, weights=[0.4, 0.6], locs=[-1.0, 2.0], scale=0.8)


@refused("condition=", mixture_given, "leading")
def gaussian_mixture_with_global_weights():
    """Weights, locations and a scale are latents with a Delta guide; assignments are summed out."""

    @poutine.infer_config(config_fn=lambda site: {"enumerate": "parallel"} if site["name"] == "assignment" else {})
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=x)

    x = 2 * torch.randn(5)
    return Program(model, AutoDelta(poutine.block(model, expose=["weights", "locs", "scale"])), x, x)


def stick_breaking(beta):
    remaining = (1 - beta).cumprod(-1)
    return F.pad(beta, (0, 1), value=1.0) * F.pad(remaining, (1, 0), value=1.0)


def dirichlet_process_given_log_evidence(x):
    weights = stick_breaking(torch.tensor([0.5, 0.3]))
    return (weights.log() + dist.Normal(torch.tensor([-2.0, 0.0, 2.0]), 1.0).log_prob(x[:, None])).logsumexp(-1)


dirichlet_process_given = given(dirichlet_process_given_log_evidence, beta=[0.5, 0.3], mu=[-2.0, 0.0, 2.0])


@refused("condition=", dirichlet_process_given, "leading")
def dirichlet_process_mixture():
    """Sticks and locations are shared by all rows; each row's component is its own, in model and guide."""
    logits = torch.randn(3)

    def model(x):
        with pyro.plate("beta_plate", 2):
            beta = pyro.sample("beta", dist.Beta(1.0, 1.5))
        with pyro.plate("mu_plate", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(stick_breaking(beta)))
            pyro.sample("obs", dist.Normal(mu[z], 1.0), obs=x)

    def guide(x):
        kappa = pyro.param("kappa", torch.ones(2), constraint=constraints.positive)
        tau = pyro.param("tau", torch.zeros(3))
        with pyro.plate("beta_plate", 2):
            pyro.sample("beta", dist.Beta(torch.ones(2), kappa))
        with pyro.plate("mu_plate", 3):
            pyro.sample("mu", dist.Normal(tau, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    x = 2 * torch.randn(5)
    return Program(model, guide, x, x)


def schools_given_log_evidence(data):
    y, sigma = data
    return dist.Normal(0.5, (0.8**2 + sigma**2).sqrt()).log_prob(y)


@refused("condition=", given(schools_given_log_evidence, mu=0.5, tau=0.8), "leading")
def eight_schools():
    """A mean and a scale of all schools over an effect of each."""

    def model(y, sigma):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("obs", dist.Normal(theta, sigma), obs=y)

    def guide(y, sigma):
        loc = pyro.param("loc", torch.zeros(2))
        mu = pyro.sample("mu", dist.Normal(loc[0], 1.0))
        pyro.sample("tau", dist.LogNormal(loc[1], 0.5))
        with pyro.plate("schools", len(y)):
            pyro.sample("theta", dist.Normal(0.5 * (mu + y), 0.7))

    data = torch.randn(6), 0.5 + torch.rand(6)
    return Program(model, guide, data, data)


def hits_given_log_evidence(data):
    at_bats, hits = data
    return dist.BetaBinomial(3.0, 5.0, at_bats).log_prob(hits)


@refused("condition=", given(hits_given_log_evidence, m=0.375, kappa=8.0), "leading")
def baseball_partially_pooled():
    def model(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0.0, 1.0))
        kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
        with pyro.plate("players", len(hits)):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)

    def guide(at_bats, hits):
        pyro.sample("m", dist.Beta(2.0, 3.0))
        above_one = dist.transforms.AffineTransform(1.0, 1.0)
        pyro.sample("kappa", dist.TransformedDistribution(dist.Gamma(2.0, 0.5), [above_one]))
        with pyro.plate("players", len(hits)):
            pyro.sample("phi", dist.Beta(2 + hits, 3 + at_bats - hits))

    data = torch.tensor([10.0, 8.0, 12.0, 9.0]), torch.tensor([4.0, 1.0, 6.0, 3.0])
    return Program(model, guide, data, data)


TOP, BOTTOM = [[1.0, 0.5]], [[0.5, 1.0, 2.0], [1.5, 0.3, 0.6]]


@refused("condition=", given(None, w_top=TOP, w_bottom=BOTTOM), "leading")
def sparse_gamma():
    """A deep exponential family: layers of gamma latents for each row, gamma weights for all."""
    encoder = nn.Linear(3, 3)

    def model(x):
        w_top = pyro.sample("w_top", dist.Gamma(0.5, 0.5).expand([1, 2]).to_event(2))
        w_bottom = pyro.sample("w_bottom", dist.Gamma(0.5, 0.5).expand([2, 3]).to_event(2))
        with pyro.plate("data", len(x)):
            z_top = pyro.sample("z_top", dist.Gamma(torch.full((1,), 3.0), 2.0).to_event(1))
            z_bottom = pyro.sample("z_bottom", dist.Gamma(1.0, 1 / (z_top @ w_top)).to_event(1))
            pyro.sample("x", dist.Poisson(z_bottom @ w_bottom).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.sample("w_top", dist.Gamma(2.0, 2.0).expand([1, 2]).to_event(2))
        pyro.sample("w_bottom", dist.Gamma(2.0, 2.0).expand([2, 3]).to_event(2))
        with pyro.plate("data", len(x)):
            alpha = 1 + F.softplus(encoder(torch.log1p(x)))
            pyro.sample("z_top", dist.Gamma(2 + alpha[..., :1], 1.5).to_event(1))
            pyro.sample("z_bottom", dist.Gamma(alpha[..., 1:], 1.0).to_event(1))

    x = torch.poisson(2 * torch.ones(4, 3))
    return Program(model, guide, x, x)


def student_log_evidence(x):
    return dist.StudentT(4.0, 0.0, 0.75**0.5).log_prob(x)


@refused("condition=", given(student_log_evidence, rate=1.5), "leading")
def robust_regression_with_a_shared_rate():
    """Precisions of rows under a rate that all share."""

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            precision = pyro.sample("precision", dist.Gamma(2.0, rate))
            pyro.sample("x", dist.Normal(0.0, precision.rsqrt()), obs=x)

    def guide(x):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("precision", dist.Gamma(2.3, rate + 0.4 * x.square()))

    x = torch.randn(5)
    return Program(model, guide, x, x)
