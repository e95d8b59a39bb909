"""Importance weights of a pair, per data point: the primitive from which every bound is made."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.arguments import checked
from ppvae.batches import Batch
from ppvae.contract import check_shapes
from ppvae.model_and_guide import ModelAndGuide
from ppvae.presentation import present
from ppvae.sites import is_enumerated, log_probability_of_values, sample_sites
from ppvae.tracing import Joint, trace_pair


@checked
@dataclass(frozen=True, repr=False)
class Weights:
    """`log w = log p(x, z_k) - log q(z_k | x)` for K particles of each of B data points, in nats.

    Attributes:
        log_p_sites: log probability under the model per site, `[K, B]`. Sites tied by the exact summation of a
            discrete one are one entry, their names joined by commas.
        log_q_sites: log probability under the guide per site, `[K, B]`.
        latents: the guide's draws per site, `[K, B, *event]`.
    """

    log_p_sites: dict[str, Tensor]
    log_q_sites: dict[str, Tensor]
    latents: dict[str, Tensor]

    def __repr__(self) -> str:
        num, size = self.log_p.shape
        sites = f"{', '.join(self.log_p_sites)}; guide: {', '.join(self.log_q_sites) or 'none'}"
        return f"Weights({num} particles of {size} data points; model: {sites})"

    def _repr_html_(self) -> str:
        return present("notebook", self)

    @property
    def log_p(self) -> Tensor:
        """`log p(x, z)`, `[K, B]`."""
        return sum_terms(self.log_p_sites)

    @property
    def log_q(self) -> Tensor:
        """`log q(z | x)`, `[K, B]`; zero for a pair without latents in its guide."""
        return sum_terms(self.log_q_sites) if self.log_q_sites else self.log_p.new_zeros(self.log_p.shape)

    @property
    def log_w(self) -> Tensor:
        """`log p(x, z) - log q(z | x)`, `[K, B]`."""
        return log_weight(self.log_p_sites, self.log_q_sites)


def sum_terms(terms: dict[str, Tensor]) -> Tensor:
    """The sum of per-site terms."""
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def log_weight(log_p: dict[str, Tensor], log_q: dict[str, Tensor]) -> Tensor:
    """`log p - log q`, of per-site terms."""
    result = sum_terms(log_p)
    for term in log_q.values():
        result = result - term
    return result


def draw_weights(pair: ModelAndGuide, batch: Batch, num_particles: int) -> Weights:
    """The weights of K particles for each of B data points; `Pair.log_weights` is this, of a pair that was checked."""
    joint = trace_pair(pair, batch, num_particles)
    check_shapes(joint)
    return weights_of(joint)


def weights_of(joint: Joint) -> Weights:
    """The weights of one run of a pair."""
    latents = {
        name: site["value"].expand(*joint.shape, *site["fn"].event_shape)
        for name, site in sample_sites(joint.guide, observed=False).items()
    }
    return Weights(joint.log_p_terms(), joint.log_q_terms(), latents)


def expected_log_weight(joint: Joint) -> Tensor:
    """`log w` with the expectation over the sites that the guide enumerates taken exactly, `[K, B]`.

    `sum_c q(c | x) (log p(x, z, c) - log q(z, c | x))`, with the convention 0 log 0 = 0. A masked c adds nothing to the
    logs, and its q(c | x) sums to one as ever.
    """
    return over_enumerated(joint, log_weight(joint.log_p_terms(), joint.log_q_terms()))


def over_enumerated(joint: Joint, log_w: Tensor) -> Tensor:
    """The expectation of log weights, or what stands for them, over the sites that the guide enumerates, `[K, B]`."""
    sites = sample_sites(joint.guide)
    discrete = {name: log_probability_of_values(site) for name, site in sites.items() if is_enumerated(site)}
    if not discrete:
        return log_w
    log_w, probability = torch.broadcast_tensors(log_w, sum_terms(discrete).exp())
    return (probability * log_w.masked_fill(probability == 0, 0.0)).flatten(end_dim=-3).sum(0)
