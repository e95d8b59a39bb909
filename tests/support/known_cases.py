"""The cases of the coverage study: priors, likelihoods and guides of many kinds, each with known evidence."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from support.known_pairs import Case, Fn
from torch import Tensor, nn
from torch.distributions import ExpTransform, SigmoidTransform

from ppvae import Pair

POSITIVE, UNIT = ExpTransform(), SigmoidTransform()


def placed(onto: Any = None, width: float = 1.0, shift: float = 0.0, df: float | None = None) -> Fn:
    """A guide `loc + shift scale + width scale noise`, taken onto a support; noise is Gaussian, or Student's."""

    def fn(loc: Tensor, scale: Tensor, *before: Tensor) -> dist.Distribution:
        loc, scale = loc + shift * scale, width * scale
        base = dist.Normal(loc, scale) if df is None else dist.StudentT(df, loc, scale)
        return base if onto is None else dist.TransformedDistribution(base, [onto])

    return fn


def normal() -> dist.Distribution:
    return dist.Normal(torch.zeros(()), 1.0)


def two_humps() -> dist.Distribution:
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([-1.5, 1.5]), 0.5))


def near(sd: float) -> Fn:
    return lambda z: dist.Normal(z, sd)


def one(name: str, prior: Fn, likelihood: Fn, guide: Fn, healthy: bool = True) -> Case:
    return Case(name, (prior,), likelihood, (guide,), healthy)


LIKELIHOODS = {
    "Normal": near(0.7),
    "Poisson": lambda z: dist.Poisson((0.7 * z).exp()),
    "NegativeBinomial": lambda z: dist.NegativeBinomial(5.0, logits=z),
    "Bernoulli": lambda z: dist.Bernoulli(logits=2 * z),
    "Categorical": lambda z: dist.Categorical(logits=torch.stack([0 * z, z, -z], -1)),
    "StudentT": lambda z: dist.StudentT(4.0, z, 0.5),
    "zero-inflated": lambda z: dist.ZeroInflatedPoisson(z.exp(), gate=torch.tensor(0.3)),
}

GAUSSIAN_GUIDES = {  # of the right family: what each does to the posterior's own moments, and whether it is healthy
    "right": (placed(), True),
    "width 0.7": (placed(width=0.7), True),
    "width 0.45": (placed(width=0.45), True),
    "width 0.2": (placed(width=0.2), False),
    "width 1.5": (placed(width=1.5), True),
    "width 4": (placed(width=4.0), True),
    "shift 1": (placed(shift=1.0), True),
    "shift 3": (placed(shift=3.0), False),
    "shift 1, width 0.5": (placed(shift=1.0, width=0.5), False),
    "Student's t": (placed(df=3.0), True),
    "Cauchy": (placed(df=1.0), True),
}


def _prior_cases() -> list[Case]:
    def beta() -> dist.Distribution:
        return dist.Beta(torch.tensor(2.0), 3.0)

    def gamma() -> dist.Distribution:
        return dist.Gamma(torch.tensor(2.0), 1.0)

    def von_mises() -> dist.Distribution:
        return dist.VonMises(torch.tensor(1.0), 1.5)

    count = LIKELIHOODS["Poisson"]
    return [
        one("StudentT prior", lambda: dist.StudentT(torch.tensor(3.0), 0.0, 1.0), near(0.7), placed()),
        one("StudentT prior, light guide", lambda: dist.StudentT(torch.tensor(2.0)), near(3.0), placed(), False),
        one("Gamma prior, exact Poisson", gamma, lambda z: dist.Poisson(3 * z), placed(POSITIVE)),
        one("Gamma prior, Normal", gamma, near(0.5), placed(POSITIVE)),
        one("Gamma prior, narrow", gamma, near(0.5), placed(POSITIVE, width=0.5)),
        one("Gamma prior, wide", gamma, near(0.5), placed(POSITIVE, width=2.0)),
        one("Beta prior, Binomial", beta, lambda z: dist.Binomial(10, z), placed(UNIT)),
        one("Beta prior, Bernoulli", beta, lambda z: dist.Bernoulli(z), placed(UNIT)),
        one("LogNormal prior, Poisson", lambda: dist.LogNormal(torch.tensor(0.0), 0.7), dist.Poisson, placed(POSITIVE)),
        one("HalfNormal prior, Normal", lambda: dist.HalfNormal(torch.tensor(1.0)), near(0.5), placed(POSITIVE)),
        one("HalfNormal prior, count", lambda: dist.HalfNormal(torch.tensor(1.0)), count, placed(POSITIVE)),
        one("circle", von_mises, near(0.6), lambda loc, scale: dist.VonMises(loc, scale.clamp(max=1.5) ** -2)),
        one("circle, narrow", von_mises, near(0.6), lambda loc, scale: dist.VonMises(loc, 4 * scale**-2)),
        one("mixture prior", two_humps, near(0.7), placed()),
        one("mixture prior, weak data", two_humps, near(2.0), placed()),
        one("mixture prior, one hump", two_humps, near(2.0), lambda loc, scale: dist.Normal(1.5 + 0 * loc, 0.5), False),
    ]


def _two_modes(loc: Tensor, scale: Tensor) -> dist.Distribution:
    means = torch.stack([scale, -scale], -1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones_like(means)), dist.Normal(means, 0.4))


SQUARED = lambda z: dist.Normal(z.square(), 0.5)  # noqa: E731

OF_MODES = [
    one("two modes, both in the guide", normal, SQUARED, _two_modes),
    one("two modes, one in the guide", normal, SQUARED, lambda loc, scale: dist.Normal(scale, 0.3 + 0 * loc), False),
]

OF_TWO = [
    Case("two sites, mean-field", (normal, near(1.0)), lambda a, b: dist.Normal(b, 0.7), (placed(), placed())),
    Case("two sites, wide", (normal, near(1.0)), lambda a, b: dist.Normal(b, 0.7), (placed(width=1.5),) * 2),
    Case("two sites, correlated", (normal, lambda a: near(1.0)(0 * a)), lambda a, b: dist.Normal(a + b, 0.3),
         (placed(), placed())),
    Case("two sites, strongly correlated", (normal, lambda a: near(1.0)(0 * a)), lambda a, b: dist.Normal(a + b, 0.1),
         (placed(), placed(width=0.5)), False),
    Case("two sites, scales", (normal, lambda a: dist.Normal(0.0, (0.5 * a).exp())), lambda a, b: dist.Normal(b, 0.5),
         (placed(), placed())),
    Case("discrete and continuous", (lambda: dist.Categorical(torch.tensor([0.3, 0.3, 0.4])),
                                     lambda c: dist.Normal(c.to(torch.get_default_dtype()) - 1, 0.7)),
         lambda c, z: dist.Normal(z, 0.5),
         (lambda loc, scale: dist.Categorical(logits=torch.stack([0 * loc, loc - 1, 2 * (loc - 1)], -1)), placed())),
]  # fmt: skip


class Vectors(Case):
    """`z ~ N(0, I)`, `x ~ N(z, I)` in D dimensions; the guide's width is the posterior's times a number."""

    def __init__(self, num_dims: int, width: float, healthy: bool = True):
        super().__init__(f"{num_dims} dimensions, width {width}", (), normal, (), healthy)
        object.__setattr__(self, "num_dims", num_dims)
        object.__setattr__(self, "width", width)

    def data(self, num: int, seed: int) -> tuple[Tensor, ...]:
        x = 2**0.5 * torch.randn(num, self.num_dims, generator=torch.Generator().manual_seed(seed))
        return x, x / 2, torch.full_like(x, 0.5**0.5 * self.width)

    def exact(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        log_evidence = dist.Normal(torch.zeros(()), 2**0.5).log_prob(batch[0]).sum(-1)
        r = self.width**2
        return {"log_evidence": log_evidence, "elbo": log_evidence - self.num_dims * (r - 1 - math.log(r)) / 2}

    def pair(self) -> Pair:
        return _Vectors()


class _Vectors(Pair):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def model(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + self.shift, scale).to_event(1))


class Simplex(Vectors):
    """`z ~ Dirichlet(2)`, `x ~ Multinomial(z)` of 3; the guide's concentration is the posterior's times a number."""

    def __init__(self, width: float):
        super().__init__(3, width)
        object.__setattr__(self, "name", f"Dirichlet, times {width}")

    def data(self, num: int, seed: int) -> tuple[Tensor, ...]:
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        x = dist.Multinomial(12, dist.Dirichlet(torch.full((num, 3), 2.0)).sample()).sample()
        torch.set_rng_state(state)
        return x, self.width * (x + 2.0), torch.ones_like(x)

    def exact(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        posterior, q = dist.Dirichlet(batch[0] + 2.0), dist.Dirichlet(batch[1])
        log_evidence = dist.DirichletMultinomial(torch.full((3,), 2.0), 12).log_prob(batch[0])
        return {"log_evidence": log_evidence, "elbo": log_evidence - torch.distributions.kl_divergence(q, posterior)}

    def pair(self) -> Pair:
        return _Simplex()


class _Simplex(_Vectors):
    def model(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.full((3,), 2.0)))
            pyro.sample("x", dist.Multinomial(12, z), obs=x)

    def guide(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(loc + self.shift))


COVARIANCE = torch.tensor([[0.4, 0.2], [0.2, 0.6]], dtype=torch.float64)
"""Of the posterior of two latents in turn, each seen with noise."""


class Masked(Vectors):
    """Two latents in turn, each seen with noise; every other data point has the second masked in model and guide."""

    def __init__(self) -> None:
        super().__init__(2, 0.8)
        object.__setattr__(self, "name", "masked")

    def data(self, num: int, seed: int) -> tuple[Tensor, ...]:
        noise = torch.randn(4, num, generator=torch.Generator().manual_seed(seed))
        z = torch.stack([noise[0], noise[0] + noise[1]], -1)
        x, present = z + noise[2:].T, torch.arange(num)[:, None] % 2 == 0
        loc = torch.where(present, x @ COVARIANCE, x / 2)
        return x, loc, present.expand(num, 2).to(z)

    def exact(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        x, loc, present = batch
        whole = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 3.0]])).log_prob(x)
        log_evidence = torch.where(present[:, 0] > 0, whole, dist.Normal(0.0, 2**0.5).log_prob(x[:, 0]))
        posterior = dist.MultivariateNormal(x @ COVARIANCE, COVARIANCE)
        q = dist.MultivariateNormal(loc, 0.36 * torch.eye(2))
        kl = torch.where(
            present[:, 0] > 0,
            torch.distributions.kl_divergence(q, posterior),
            torch.distributions.kl_divergence(dist.Normal(loc[:, 0], 0.6), dist.Normal(x[:, 0] / 2, 0.5**0.5)),
        )
        return {"log_evidence": log_evidence, "elbo": log_evidence - kl}

    def pair(self) -> Pair:
        return _Masked()


class _Masked(_Vectors):
    def model(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            first = pyro.sample("z0", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x0", dist.Normal(first, 1.0), obs=x[..., 0])
            with poutine.mask(mask=scale[..., 0] > 0):
                second = pyro.sample("z1", dist.Normal(first, 1.0))
                pyro.sample("x1", dist.Normal(second, 1.0), obs=x[..., 1])

    def guide(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            pyro.sample("z0", dist.Normal(loc[..., 0] + self.shift, 0.6))
            with poutine.mask(mask=scale[..., 0] > 0):
                pyro.sample("z1", dist.Normal(loc[..., 1], 0.6))


CASES: dict[str, Case] = {
    case.name: case
    for case in [
        *[one(f"{name} likelihood", normal, fn, placed()) for name, fn in LIKELIHOODS.items()],
        *[one(f"Gaussian, {name}", normal, near(1.0), *guide) for name, guide in GAUSSIAN_GUIDES.items()],
        one("Poisson, narrow", normal, LIKELIHOODS["Poisson"], placed(width=0.5)),
        one("Bernoulli, wide", normal, LIKELIHOODS["Bernoulli"], placed(width=2.0)),
        *_prior_cases(),
        *OF_MODES,
        *OF_TWO,
        *[Vectors(D, width) for D, width in ((4, 0.45), (4, 0.8), (10, 0.8), (10, 1.3), (30, 0.9))],
        Simplex(1.0),
        Simplex(0.5),
        Masked(),
    ]
}
