"""Closed-form KL divergences against integrals, and those that torch would give without being right."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, ExpTransform, SigmoidTransform
from support.functions import Functions

from ppvae import ELBO
from ppvae.inference import kl_divergence

pytestmark = pytest.mark.usefixtures("float64")


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(loc, scale):
    return dist.Normal(number(loc), scale)


def folded(loc, scale):
    return dist.FoldedDistribution(normal(loc, scale))


def of_normal(loc, scale, *transforms):
    return dist.TransformedDistribution(normal(loc, scale), list(transforms))


def integral(q, p, to):
    """`KL(q || p)` on a grid of `to(u)`, u normal-sized."""
    u = torch.linspace(-14, 14, 400_001, requires_grad=True)
    z = to(u)
    (slope,) = torch.autograd.grad(z.sum(), u)
    z = z.detach()
    with torch.no_grad():
        log_q = q.log_prob(z)
        terms = (log_q.exp() * (log_q - p.log_prob(z)) * slope).nan_to_num(0.0)
    return terms.sum() * 28 / 400_000


KNOWN = {
    "half normal": (dist.HalfNormal(number(0.7)), dist.HalfNormal(number(1.3)), torch.exp),
    "half Cauchy": (dist.HalfCauchy(number(0.7)), dist.HalfCauchy(number(1.3)), lambda u: (2 * u).exp()),
    "log normal": (dist.LogNormal(0.3, number(0.5)), dist.LogNormal(0.0, number(1.0)), torch.exp),
    "logistic normal": (
        of_normal(0.3, 0.5, SigmoidTransform()),
        of_normal(0.0, 1.0, SigmoidTransform()),
        torch.sigmoid,
    ),
    "moved": (
        of_normal(0.3, 0.5, AffineTransform(1.0, 2.0), ExpTransform()),
        of_normal(0.0, 1.0, AffineTransform(1.0, 2.0), ExpTransform()),
        lambda u: (1 + 2 * u).exp(),
    ),
    "gamma": (dist.Gamma(number(2.0), 1.5), dist.Gamma(number(1.0), 0.5), torch.exp),
    "beta": (dist.Beta(number(2.0), 1.5), dist.Beta(number(1.0), 3.0), torch.sigmoid),
}


@pytest.mark.parametrize("case", KNOWN)
def test_it_is_the_integral(case):
    q, p, to = KNOWN[case]
    torch.testing.assert_close(kl_divergence(q, p), integral(q, p, to), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (folded(0.9, 1.0), folded(0.0, 1.0)),
        (folded(0.9, 1.0), folded(0.9, 2.0)),
        (dist.HalfNormal(number(1.0)), folded(2.0, 1.0)),
        (folded(0.9, 1.0).expand([2]).to_event(1), folded(0.0, 1.0).expand([2]).to_event(1)),
        (folded(0.9, 1.0).mask(torch.tensor(True)), folded(0.0, 1.0).mask(torch.tensor(True))),
    ],
)
def test_folding_loses_what_the_base_had(q, p):
    with pytest.raises(NotImplementedError, match="has two values of its base"):
        kl_divergence(q, p)


def test_a_formula_that_is_infinite_where_it_should_not_be_is_none():
    """torch's KL of a continuous Bernoulli against a uniform distribution, on the same interval too."""
    q, p = dist.ContinuousBernoulli(number(0.3)), dist.Uniform(0.0, number(1.0))
    assert integral(q, p, torch.sigmoid) < 0.1
    for of_q, of_p in ((q, p), (q.expand([2]).to_event(1), p.expand([2]).to_event(1))):
        with pytest.raises(NotImplementedError, match="torch's formula is infinite"):
            kl_divergence(of_q, of_p)


@pytest.mark.parametrize("particles", ["leading", "rows"])
def test_the_elbo_of_a_folded_latent(particles, assert_mean):
    """By an integral over z; torch's KL, of the bases, would take off up to 0.14 nats more."""
    x = torch.tensor([-0.7, 0.4, 1.9])

    def q(x):
        return dist.FoldedDistribution(dist.Normal(0.3 * x, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.FoldedDistribution(dist.Normal(0.0, 1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    z = (torch.arange(40_000) + 0.5).unsqueeze(1) / 4000
    log_q = q(x).log_prob(z)
    log_p = math.log(2) + dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    exact = (log_q.exp() * (log_p - log_q)).sum(0) / 4000
    pair = Functions(model, guide)
    pair.particles = particles
    assert_mean(torch.stack([ELBO(100)(pair, x)[0] for _ in range(100)]), exact, k=4.5)


def wishart(scale):
    """Of 2 x 2 matrices; `KL(wishart(s) || wishart(1)) = 4 (s - 1 - log s)`."""
    return dist.Wishart(torch.tensor(4.0), covariance_matrix=scale[..., None, None] * torch.eye(2))


@pytest.mark.filterwarnings("ignore:Singular sample")  # which torch says of every draw
def test_a_formula_without_gradients_is_none():
    """torch has KL(q || p) of any exponential family, at arguments of q that it holds fixed."""
    x = torch.tensor([0.1, -0.2, 0.5])
    scale = torch.nn.Parameter(torch.tensor(1.5))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", wishart(torch.ones_like(x)))
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", wishart(scale.expand(len(x))))

    pair = Functions(model, guide)
    pair.scale = scale
    pyro.set_rng_seed(0)
    gradients = []
    for _ in range(200):
        _, surrogate = ELBO(num_particles=50)(pair, x)
        gradients += torch.autograd.grad(surrogate, [scale])
    found = torch.stack(gradients)
    kl = 4 * (scale - 1 - scale.log())
    (expected,) = torch.autograd.grad(-kl, [scale])
    assert (found.mean() - expected).abs() < 4 * found.std() / len(found) ** 0.5
    with torch.no_grad():
        value = torch.stack([ELBO(num_particles=50)(pair, x)[0] for _ in range(200)])
    exact = dist.Normal(torch.tensor(0.0), 1.0).log_prob(x) - kl.detach()
    assert ((value.mean(0) - exact).abs() < 4 * value.std(0) / len(value) ** 0.5).all()
