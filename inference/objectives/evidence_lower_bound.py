"""The evidence lower bound, with its choice of gradients, weights of the KL, and closed forms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.arguments import Count, NonNegative, Schedule, checked
from ppvae.batches import Batch
from ppvae.enumerable import guide_runs_enumerated
from ppvae.inference.objectives.dependencies import separable, separable_in
from ppvae.inference.objectives.divergence import site_kl
from ppvae.inference.objectives.gradients import Draw
from ppvae.inference.objectives.importance_weighted import gain
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.inference.objectives.scales import is_pair_scaled, is_scaled, like_scales, scaled
from ppvae.inference.objectives.schedules import refuse_scheduled
from ppvae.inference.objectives.weighting import average
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.sites import sample_sites
from ppvae.weights import log_weight, sum_terms

LEAST_KL = 0.01
"""The least KL, in nats, that balancing assumes for a site, so that a site not used yet is not free of charge."""


@checked
@dataclass(frozen=True)
class ELBO(MeanOverDraws):
    """The evidence lower bound, `E_q[log p(x, z) - log q(z | x)] = E_q[log p(x | z)] - KL`.

    Gradients: "reparameterized"; "stl" (sticking the landing) leaves out `d log q / d phi` at fixed z, whose mean is
    zero, so that an exact guide's gradient has no noise; "score" is the score function, `(log w_k - mean of the other
    log w) d log q(z_k)`, for all sites. Sites without reparameterization always take the score function, and so do
    arguments from which no path leads to the draws (the weights of a mixture); that needs K of 2 or more.

    Except with "stl", KL terms are taken in closed form where the guide's dependencies and the distributions allow
    (`ppvae.inference.separable_sites`), else by Monte Carlo: the same expectation, with less noise while the guide is
    poor and more as it nears the posterior.

    With `beta` or `free_bits` the gradient is that of `E log p(x | z) - sum_sites beta * max(KL_site, free_bits)`, with
    `KL_site` averaged over the batch; the value stays the ELBO. With `balance`, while beta is below 1, each site's KL
    has a further weight, proportional to `KL_site / size_site`, with mean 1 over sites and no gradient: a site that
    uses more nats per number pays more for them, so no site is left unused early on.

    `poutine.scale` weighs the terms of its sites in the gradient, as in Pyro; the value stays the ELBO.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); stl: Roeder et al. 2017 (arXiv:1703.09194); score: Ranganath et al.
    2014 (arXiv:1401.0118), baseline: Kool et al. 2019; beta: Higgins et al. 2017; free bits: Kingma et al. 2016
    (arXiv:1606.04934); balance: Vahdat et al. 2018 (arXiv:1802.04920), appendix H, and Vahdat & Kautz 2020
    (arXiv:2007.03898), whose text says "proportional to the size" but whose code divides by it.

    Args:
        num_particles: K, draws per data point.
        kl: "auto", "analytic" (refused, by name, where it is not valid) or "monte_carlo".
        beta: weight of the KL, or a schedule `step -> weight` such as `LinearWarmup`.
        free_bits: nats per latent site below which the KL is not pushed down.
        balance: whether to weight each site's KL by how much the site is used, while beta is below 1.
        gradient: "reparameterized", "stl" or "score".
        known_separable: the sites whose KL may be taken in closed form where the order of a run's sites does not tell,
            as `prepared` finds them; if None, each such call inspects the pair again.

    Raises:
        ValueError: a setting out of range, or `kl="analytic"` with gradient "stl".
        ContractError: when called: a guide site without reparameterization, and K = 1; `kl="analytic"` where no closed
            form is valid; beta or free bits where exact summation ties a latent to the observation and leaves no KL to
            weight.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = ELBO()(LinearVAE(num_features=5, num_latents=2), torch.zeros(3, 5))
        >>> value.shape, surrogate.shape
        (torch.Size([3]), torch.Size([]))
    """

    num_particles: Count = 1
    kl: Literal["auto", "analytic", "monte_carlo"] = "auto"
    beta: NonNegative | Schedule = 1.0
    free_bits: NonNegative = 0.0
    balance: bool = False
    gradient: str = "reparameterized"
    known_separable: frozenset[str] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.gradient not in ("reparameterized", "stl", "score"):
            raise ValueError(
                f"gradient: found {self.gradient!r}, expected 'reparameterized', 'stl' (the same as 'dreg' for one "
                "particle) or 'score'"
            )
        if self.balance and not callable(self.beta) and self.beta >= 1:
            raise ValueError(
                f"balance: found True with beta={self.beta}, expected a beta below 1 or a schedule, as sites are "
                "balanced only while it is below 1; use beta=LinearWarmup(...)"
            )
        if self.kl == "analytic" and self.gradient == "stl":
            raise ValueError(
                "kl: found 'analytic' with gradient='stl', expected 'auto' or 'monte_carlo', as a closed form has no "
                "draws along which to differentiate"
            )

    @property
    def schedules(self) -> tuple[str, ...]:
        return ("beta",) if callable(self.beta) else ()

    @property
    def unbiased(self) -> "ELBO":
        """The same objective with the plain gradient; the others are unbiased too."""
        return replace(self, gradient="reparameterized")

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        fixed, stl = self.gradient == "score", self.gradient == "stl"
        draw = Draw(pair, batch, self.num_particles, fixed=fixed, partial=stl)
        minus_kl: dict[str, Tensor] = {}
        alike: dict[str, bool | Tensor] = {}
        if self._closed_forms:
            alike = like_scales(draw.joint)
            if not isinstance(step, Tensor) or self.kl == "analytic":
                alike = {name: bool(same) for name, same in alike.items()}
            minus_kl = self._minus_analytic_kl(draw, self._separable(pair, batch, draw), alike)
        log_p, log_q = _terms(draw, minus_kl, alike)
        value = log_weight(log_p, log_q).mean(0)
        if not torch.is_grad_enabled():
            return value, value.mean()
        draw.check_scored(True, self.num_particles)
        beta = self.beta(step) if callable(self.beta) else self.beta
        refuse_scheduled("beta", beta, step, lambda number: number >= 0, "a number, 0 or more")
        if isinstance(beta, Tensor) or beta != 1.0 or self.free_bits != 0.0:
            log_p, log_q = self._tempered(log_p, log_q, draw, beta)
        if is_scaled(draw.joint):
            log_p, log_q = scaled(draw.joint, log_p, log_q)
        shares = torch.full_like(log_weight(log_p, log_q).detach(), 1 / self.num_particles)
        surrogate = draw.surrogate(
            model=shares,
            path=shares if draw.followed else None,
            score=gain(lambda f: f.mean(0), log_weight(log_p, log_q).detach()) if draw.scored else None,
            stuck=log_q.keys() & (draw.scored | draw.followed if stl else draw.scored),
            log_p=sum_terms(log_p),
            log_q=log_q,
        )
        return value, surrogate

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        other = self.beta != 1.0 or self.free_bits != 0.0 or is_pair_scaled(pair, batch)
        if other or not guide_runs_enumerated(pair, batch):
            return super().exact_value(pair, batch)
        return pair.exact_elbo(batch)

    def prepared(self, pair: Pair, batch: Batch) -> "ELBO":
        return replace(self, known_separable=separable(pair, batch)) if self._closed_forms else self

    @property
    def _closed_forms(self) -> bool:
        return self.kl != "monte_carlo" and self.gradient != "stl"

    def _separable(self, pair: Pair, batch: Batch, draw: Draw) -> frozenset[str]:
        found = separable_in(draw.joint)
        if found is None:
            found = self.known_separable
        if found is None:
            draw.joint.log_q_terms()  # first, as Pyro's flows know only the density of their latest draw
            found = separable(pair, batch)
        return found

    def _minus_analytic_kl(
        self, draw: Draw, separable: frozenset[str], alike: Mapping[str, bool | Tensor]
    ) -> dict[str, Tensor]:
        """Minus the KL of each site that has a closed form, `[K, B]`, unless its scales are known not to be alike."""
        result = {}
        for name in sample_sites(draw.joint.guide, observed=False):
            q: Any = draw.joint.guide.nodes[name]
            p: Any = draw.joint.model.nodes[name]
            try:
                if name not in separable:
                    raise NotImplementedError("a parent in the model is a descendant in the guide, or not in the guide")
                if alike.get(name, True) is False:
                    raise NotImplementedError("poutine.scale scales it differently in guide and model")
                result[name] = -site_kl(q, p).expand(draw.joint.shape)
            except NotImplementedError as reason:
                if self.kl == "analytic":
                    why = str(reason) or "{q} against {p}".format(q=q["fn"], p=p["fn"])
                    raise ContractError(
                        f"site '{name}': found no closed-form KL ({why}), expected one for kl='analytic'; use kl='auto'"
                    ) from None
        return result

    def _tempered(
        self, log_p: dict[str, Tensor], log_q: dict[str, Tensor], draw: Draw, beta: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, those of each latent multiplied by beta, or by zero where its KL is within the free bits."""
        observed = sample_sites(draw.joint.model, observed=True).keys()
        latent = {key: key.split(",") for key in log_p if observed.isdisjoint(key.split(","))}
        if tied := sorted(log_q.keys() - {name for names in latent.values() for name in names}):
            raise ContractError(
                f"latent sites {tied}: found tied to the observation by an exact summation, expected each separate, "
                "as beta and free bits weight the KL alone; use beta=1 and free_bits=0"
            )
        log_p, log_q = dict(log_p), dict(log_q)
        own = {key: [name for name in names if name in log_q] for key, names in latent.items()}
        kl = {key: average(sum(log_q[name] for name in own[key]) - log_p[key]) for key in latent}
        gamma = _balancing(kl, draw.joint.model) if self.balance else {}
        for key in latent:
            weight = beta * (kl[key] > self.free_bits) if self.free_bits else beta
            if self.balance:
                weight = weight * (1 + (beta < 1) * (gamma[key] - 1))
            log_p[key] = weight * log_p[key]
            log_q |= {name: weight * log_q[name] for name in own[key]}
        return log_p, log_q


def _terms(
    draw: Draw, minus_kl: Mapping[str, Tensor], alike: Mapping[str, bool | Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms of log p and log q: minus the KL, where there is one, in place of a latent's.

    In a program, tensors choose between the two: a closed form holds while the latent's scales in guide and model are
    alike.
    """
    chosen = {name: same for name, same in alike.items() if isinstance(same, Tensor) and name in minus_kl}
    replaced = minus_kl.keys() - chosen.keys()
    log_q, drawn = draw.joint.log_q_terms(without=replaced), draw.joint.log_p_terms(without=replaced)
    log_p = {name: term for name, term in drawn.items() if name not in chosen} | dict(minus_kl)
    for name, same in chosen.items():
        log_p[name] = torch.where(same, minus_kl[name], drawn[name])
        log_q[name] = torch.where(same, 0.0, log_q[name])
    return log_p, log_q


def _balancing(kl: dict[str, Tensor], model: Trace) -> dict[str, Tensor]:
    """Weights of mean one, proportional to KL / size of each site, or of each group of sites tied together."""
    sites, per_number = sample_sites(model), {}
    for key, nats in kl.items():
        size = sum(sites[name]["fn"].event_shape.numel() for name in key.split(","))
        per_number[key] = nats.detach().clamp(min=LEAST_KL) / size
    mean = sum(per_number.values()) / max(len(per_number), 1)
    return {key: share / mean for key, share in per_number.items()}
