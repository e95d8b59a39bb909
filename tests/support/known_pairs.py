"""Pairs whose evidence, ELBO and best ELBO are known by integration over a grid: what error bars are tested on.

A case is a prior, a likelihood and the shape of a guide. The guide is placed by the posterior's own moments, found on
the grid, and then made narrow, wide, shifted and so on by a known amount.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import biject_to

from ppvae import Pair

Fn = Callable[..., Any]
NUM_NODES, NUM_NODES_OF_TWO, LARGEST = 6001, 301, 9.0


@dataclass(frozen=True)
class Case:
    """A pair with known evidence.

    Attributes:
        name: what tables call it.
        prior: of each latent, given those before it: `prior[1](z0)` is that of the second.
        likelihood: of x, given all latents.
        guide: of each latent, given location and scale of its posterior and the latents before it.
        healthy: whether importance weights or AIS of the usual size should do.
    """

    name: str
    prior: tuple[Fn, ...]
    likelihood: Fn
    guide: tuple[Fn, ...]
    healthy: bool = True

    def data(self, num: int, seed: int) -> tuple[Tensor, ...]:
        """N data points drawn from the model, with what places the guide: x, locations and scales `[N, D]`."""
        generator_state = torch.get_rng_state()
        torch.manual_seed(seed)
        z: list[Tensor] = []
        for prior in self.prior:
            fn = prior(*z)
            z.append(fn.sample((num,)) if not z or fn.batch_shape != (num,) else fn.sample())
        x = self.likelihood(*z).sample()
        torch.set_rng_state(generator_state)
        return (x, *self._moments(x))

    def exact(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """`log_evidence` and `elbo`, `[N]`."""
        found = [self._exact_of(tuple(t[i : i + 1] for t in batch)) for i in range(len(batch[0]))]
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}

    def best_elbo(self, batch: tuple[Tensor, ...]) -> Tensor:
        """The largest ELBO of guides `T(N(loc, scale))` of one latent, `[N]`, by Gauss-Hermite nodes and L-BFGS."""
        x, loc, scale = batch[0], batch[1][:, 0].clone(), batch[2][:, 0].log()
        nodes, weights = (torch.tensor(t)[:, None] for t in np.polynomial.hermite_e.hermegauss(80))
        support = biject_to(self.prior[0]().support)
        parameters = [loc.requires_grad_(), scale.requires_grad_()]
        optimizer = torch.optim.LBFGS(parameters, max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def elbos() -> Tensor:
            u = loc + scale.exp() * nodes
            z = support(u)
            log_joint = self.prior[0]().log_prob(z) + self.likelihood(z).log_prob(x)
            jacobian = support.log_abs_det_jacobian(u, z)
            entropy = scale + (1 + math.log(2 * math.pi)) / 2
            return (weights / math.sqrt(2 * math.pi) * (log_joint + jacobian)).sum(0) + entropy

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -elbos().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return elbos().detach()

    def pair(self) -> "Known":
        """Model and guide; the batch is what `data` returns."""
        return Known(self)

    def _log_joint(self, x: Tensor, z: tuple[Tensor, ...]) -> Tensor:
        terms = [prior(*z[:i]).log_prob(z[i]) for i, prior in enumerate(self.prior)]
        log_joint = sum(terms) + self.likelihood(*z).log_prob(x)
        return log_joint.nan_to_num(nan=-math.inf)  # where a rate overflows

    def _nodes(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Latents, their unconstrained coordinates, and log volumes, over the whole grid, flat."""
        values, coordinates, volumes = [], [], []
        for i, prior in enumerate(self.prior):
            fn = prior(*[torch.ones(1)] * i) if not values else prior(*[v[:1] for v in values])
            value, coordinate, volume = _axis(fn, NUM_NODES if len(self.prior) == 1 else NUM_NODES_OF_TWO)
            values.append(value)
            coordinates.append(coordinate)
            volumes.append(volume)
        if len(values) == 1:
            return tuple(values), tuple(coordinates), volumes[0]
        pick = torch.cartesian_prod(*[torch.arange(len(v)) for v in volumes]).T
        return (
            tuple(v[p] for v, p in zip(values, pick, strict=True)),
            tuple(c[p] for c, p in zip(coordinates, pick, strict=True)),
            sum(v[p] for v, p in zip(volumes, pick, strict=True)),
        )

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, u, volume = self._nodes()
        locs, scales = [], []
        for point in x:
            share = (self._log_joint(point, z) + volume).softmax(0)
            mean = torch.stack([(share * c).sum() for c in u])
            locs.append(mean)
            scales.append(torch.stack([(share * (c - m).square()).sum().sqrt() for c, m in zip(u, mean, strict=True)]))
        return torch.stack(locs), torch.stack(scales)

    def _exact_of(self, point: tuple[Tensor, ...]) -> dict[str, Tensor]:
        x, loc, scale = point
        z, _, volume = self._nodes()
        log_joint = self._log_joint(x, z)
        log_q = sum(fn(loc[:, i], scale[:, i], *z[:i]).log_prob(z[i]) for i, fn in enumerate(self.guide))
        share = (log_q + volume).exp()
        elbo = torch.where(share > 0, share * (log_joint - log_q), 0.0).sum()
        return {"log_evidence": (log_joint + volume).logsumexp(0), "elbo": elbo}


class Known(Pair):
    """The pair of a case."""

    def __init__(self, case: Case):
        super().__init__()
        self.case, self.shift = case, nn.Parameter(torch.zeros(()))

    def model(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            z: list[Tensor] = []
            for i, prior in enumerate(self.case.prior):
                z.append(pyro.sample(f"z{i}", prior(*z)))
            pyro.sample("x", self.case.likelihood(*z), obs=x)

    def guide(self, x, loc, scale):
        with pyro.plate("data", len(x)):
            z: list[Tensor] = []
            for i, fn in enumerate(self.case.guide):
                z.append(pyro.sample(f"z{i}", fn(loc[..., i] + self.shift, scale[..., i], *z)))


def _axis(fn: Any, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, unconstrained coordinates and log volumes along one latent."""
    if fn.has_enumerate_support:
        value = fn.enumerate_support(expand=False).flatten()
        return value, value.double(), torch.zeros(len(value))
    if isinstance(fn, dist.VonMises):
        value = torch.linspace(-math.pi, math.pi, num)[:-1]
        return value, value, torch.full_like(value, math.log(2 * math.pi / (num - 1)))
    t = torch.linspace(-LARGEST, LARGEST, num) if num == NUM_NODES else torch.linspace(-4.0, 4.0, num)
    u = t.sinh()
    support = biject_to(dist.constraints.real if isinstance(fn, dist.MixtureSameFamily) else fn.support)
    value = support(u)
    inside = (u.abs() < 700) & value.isfinite()
    if support.codomain is not dist.constraints.real:
        inside &= support.codomain.check(value) & (value > 0)
    volume = support.log_abs_det_jacobian(u, value) + t.cosh().log() + math.log(t[1] - t[0])
    return value[inside], u[inside], volume[inside]
