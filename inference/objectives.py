"""Objectives: `objective(pair, batch, step) -> (value, surrogate)`.

`value`, `[B]`, is the bound per data point in nats, higher is better: what is reported. `surrogate`, a scalar per data
point in the mean, is maximised: its gradient is the estimator. The two differ whenever training is not plain ascent on
the bound (a beta below one, free bits, and the gradient estimators to come).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.contract import ContractError, at_least_one, check_shapes
from ppvae.inference.divergence import kl_divergence, separable_sites
from ppvae.pair import Pair
from ppvae.tracing import Joint, sample_sites, trace_pair
from ppvae.weights import expected_log_weight, sum_terms, weights_of


class Objective(Protocol):
    """What `fit` maximises."""

    def __call__(self, pair: Pair, batch: Batch, step: float = math.inf) -> tuple[Tensor, Tensor]:
        """The bound's value `[B]` and the surrogate, a scalar, at a step of training (infinity: schedules are over)."""
        ...


@dataclass(frozen=True)
class LinearWarmup:
    """A schedule for beta: zero for `delay` steps (reconstruction first), then rising linearly to one in `steps`.

    `beta(step) = clip((step - delay) / steps, 0, 1)`. Source: Bowman et al. 2016 (arXiv:1511.06349), Sønderby et al.
    2016 (arXiv:1602.02282).

    Example:
        >>> warmup = LinearWarmup(steps=100, delay=50)
        >>> warmup(0), warmup(100), warmup(math.inf)
        (0.0, 0.5, 1.0)
    """

    steps: int
    delay: int = 0

    def __call__(self, step: float) -> float:
        return min(max((step - self.delay) / self.steps, 0.0), 1.0)


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound, `E_q[log p(x, z) - log q(z | x)] = E_q[log p(x | z)] - KL`, reparameterised.

    KL terms are taken in closed form where the guide's dependencies and the distributions allow
    (`ppvae.inference.separable_sites`), else by Monte Carlo: the same expectation; less noise while the guide is
    poor, more where it nears the posterior (Roeder et al. 2017, arXiv:1703.09194).

    With `beta` or `free_bits` the surrogate is `E log p(x | z) - sum_sites beta * max(KL_site, free_bits)`, with
    `KL_site` averaged over the batch; the value stays the ELBO.

    Not for guides with discrete sites, which have no reparameterised gradient: use `EnumeratedELBO`.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); beta: Higgins et al. 2017; free bits: Kingma et al. 2016
    (arXiv:1606.04934).

    Args:
        num_particles: K, draws per data point.
        kl: "auto", "analytic" (refused, by name, where it is not valid) or "monte_carlo".
        beta: weight of the KL, or a schedule `step -> weight` such as `LinearWarmup`.
        free_bits: nats per latent site below which the KL is not pushed down.

    Raises:
        ContractError: a guide site without reparameterisation; `kl="analytic"` where no closed form is valid; beta or
            free bits where exact summation ties a latent to the observation, so that there is no KL to weigh.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = ELBO()(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: int = 1
    kl: str = "auto"
    beta: float | Callable[[float], float] = 1.0
    free_bits: float = 0.0
    _separable: WeakKeyDictionary[Pair, frozenset[str]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        at_least_one("num_particles", self.num_particles)
        if self.kl not in ("auto", "analytic", "monte_carlo"):
            raise ValueError(f"kl: found {self.kl!r}, expected 'auto', 'analytic' or 'monte_carlo'")

    def __call__(self, pair: Pair, batch: Batch, step: float = math.inf) -> tuple[Tensor, Tensor]:
        joint = reparameterised_joint(pair, batch, self.num_particles)
        reconstruction, kl, tied = self._terms(pair, batch, joint)
        value = sum_terms({"": reconstruction, **{name: -term for name, term in kl.items()}}).mean(0)
        beta = self.beta(step) if callable(self.beta) else self.beta
        if beta == 1.0 and self.free_bits == 0.0:
            return value, value.mean()
        if tied:
            raise ContractError(
                f"latent sites {tied}: found tied to the observation by an exact summation, expected each apart from "
                "it, as beta and free bits weigh its KL alone; use beta=1 and free_bits=0"
            )
        penalty = sum(term.mean().clamp(min=self.free_bits) for term in kl.values())
        return value, reconstruction.mean() - beta * penalty

    def _terms(self, pair: Pair, batch: Batch, joint: Joint) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        """`log p(x | z)` `[K, B]`, the KL terms `[K, B]` by site, and the latents that cannot be told from x."""
        kl = self._analytic_kl(pair, batch, joint)
        log_q, log_p = joint.log_q_terms(without=kl), joint.log_p_terms(without=kl)
        observed = sample_sites(joint.model, observed=True)
        likelihood = {}
        for key, term in log_p.items():
            names = key.split(",")
            if observed.keys().isdisjoint(names):
                kl[key] = sum(log_q.pop(name) for name in names if name in log_q) - term
            else:
                likelihood[key] = term
        tied = list(log_q)
        return sum_terms(likelihood | {name: -log_q[name] for name in tied}), kl, tied

    def _analytic_kl(self, pair: Pair, batch: Batch, joint: Joint) -> dict[str, Tensor]:
        if self.kl == "monte_carlo":
            return {}
        if pair not in self._separable:
            self._separable[pair] = separable_sites(pair, batch)
        result = {}
        for name in sample_sites(joint.guide, observed=False):
            q, p = joint.guide.nodes[name]["fn"], joint.model.nodes[name]["fn"]
            try:
                if name not in self._separable[pair]:
                    raise NotImplementedError("a parent in the model is a descendant in the guide")
                result[name] = kl_divergence(q, p).expand(joint.shape)
            except NotImplementedError as reason:
                if self.kl == "analytic":
                    raise ContractError(
                        f"site '{name}': found no closed-form KL ({reason or f'{q} against {p}'}), expected one for "
                        "kl='analytic'; use kl='auto'"
                    ) from None
        return result


@dataclass(frozen=True)
class EnumeratedELBO:
    """The ELBO with the guide's discrete sites summed exactly: `sum_c q(c | x) E[log p(x, z, c) - log q(z, c | x)]`.

    For guides with discrete sites (a mixture's component, say): exact in value and gradient where all latents are
    discrete; continuous sites are drawn, reparameterised, once for each discrete value. The cost is the product of
    the guide's discrete sizes. Not for discrete guide sites inside `pyro.markov`.

    Args:
        num_particles: K, draws of the continuous sites per data point.

    Raises:
        ContractError: a guide site that can be neither enumerated nor reparameterised.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> mixture, x = GaussianMixture(num_components=3, num_features=2), torch.randn(5, 2)
        >>> value, _ = EnumeratedELBO()(mixture, x)                    # its guide is the exact posterior,
        >>> torch.allclose(value, mixture.log_prob(x), atol=1e-5)      # so there is no gap
        True
    """

    num_particles: int = 1

    def __post_init__(self) -> None:
        at_least_one("num_particles", self.num_particles)

    def __call__(self, pair: Pair, batch: Batch, step: float = math.inf) -> tuple[Tensor, Tensor]:
        joint = reparameterised_joint(pair, batch, self.num_particles, enumerate_guide=True)
        value = expected_log_weight(joint).mean(0)
        return value, value.mean()


@dataclass(frozen=True)
class IWAE:
    """The importance-weighted bound, `log (1/K) sum_k p(x, z_k) / q(z_k | x)`, reparameterised.

    Between the ELBO (K = 1) and log p(x), rising with K; falls short by about `chi^2(posterior || q) / 2K`. The
    gradient's signal-to-noise ratio for the guide falls as `K^-1/2` (Rainforth et al. 2018, arXiv:1802.04537), so a
    larger K is not always better training. IWAE - ELBO is not the posterior gap.

    Source: Burda et al. 2016 (arXiv:1509.00519).

    Args:
        num_particles: K.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2, guide="exact"), torch.zeros(3, 5)
        >>> torch.allclose(IWAE(num_particles=10)(pair, x)[0], pair.log_prob(x))
        True
    """

    num_particles: int = 50

    def __post_init__(self) -> None:
        at_least_one("num_particles", self.num_particles)

    def __call__(self, pair: Pair, batch: Batch, step: float = math.inf) -> tuple[Tensor, Tensor]:
        log_w = weights_of(reparameterised_joint(pair, batch, self.num_particles)).log_w
        value = log_w.logsumexp(0) - math.log(self.num_particles)
        return value, value.mean()


def reparameterised_joint(pair: Pair, batch: Batch, num_particles: int, *, enumerate_guide: bool = False) -> Joint:
    """One run of the pair whose latents carry gradients; a guide site that cannot is refused by name."""
    joint = trace_pair(pair, batch, num_particles, enumerate_guide=enumerate_guide)
    check_shapes(joint)
    if torch.is_grad_enabled():
        for name, site in sample_sites(joint.guide, observed=False).items():
            if not site["fn"].has_rsample and "_enumerate_dim" not in site["infer"]:
                raise ContractError(
                    f"guide site '{name}': found {type(site['fn']).__name__}, which has no reparameterised gradient, "
                    "expected one that has; use EnumeratedELBO if it is discrete with few values, or leave it out of "
                    "the guide to have it summed out of the model"
                )
    return joint
