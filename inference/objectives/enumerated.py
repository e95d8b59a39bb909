"""The ELBO with the guide's discrete sites summed exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.arguments import Count, checked
from ppvae.batches import Batch
from ppvae.contract import check_shapes
from ppvae.enumerable import guide_runs_enumerated
from ppvae.inference.objectives.gradients import reparameterized
from ppvae.inference.objectives.protocol import MeanOverDraws
from ppvae.inference.objectives.scales import is_pair_scaled, is_scaled, scaled
from ppvae.inference.objectives.weighting import mean_over_data
from ppvae.pair import Pair
from ppvae.refusals import ContractError, family
from ppvae.sites import is_enumerated, sample_sites
from ppvae.tracing import Joint, trace_pair
from ppvae.weights import expected_log_weight, log_weight, over_enumerated


@checked
@dataclass(frozen=True)
class EnumeratedELBO(MeanOverDraws):
    """The ELBO with the guide's discrete sites summed exactly: `sum_c q(c | x) E[log p(x, z, c) - log q(z, c | x)]`.

    For guides with discrete sites (a mixture's component, say): exact in value and gradient where all latents are
    discrete; continuous sites are drawn, reparameterized, once for each discrete value. The cost is the product of
    the guide's discrete sizes. Not for discrete guide sites inside `pyro.markov`.

    Args:
        num_particles: K, draws of the continuous sites per data point.

    Raises:
        ContractError: when called, on a guide site that can be neither enumerated nor reparameterized.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> mixture, x = GaussianMixture(num_components=3, num_features=2), torch.randn(5, 2)
        >>> value, _ = EnumeratedELBO()(mixture, x)                    # its guide is the exact posterior,
        >>> torch.allclose(value, mixture.log_prob(x), atol=1e-5)      # so there is no gap
        True
    """

    num_particles: Count = 1

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        return self.of(enumerated(pair, batch, self.num_particles))

    def of(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """Value and surrogate of an enumerated run."""
        for name, site in sample_sites(joint.guide, observed=False).items():
            if torch.is_grad_enabled() and not reparameterized(site["fn"]) and not is_enumerated(site):
                raise ContractError(
                    f"guide site '{name}': found {family(site['fn'])}, which can be neither enumerated as one site "
                    "nor reparameterized, expected one or the other; use ELBO(num_particles=2) or VIMCO"
                )
        value = expected_log_weight(joint).mean(0)
        if not is_scaled(joint):
            return value, mean_over_data(value)
        weighed = log_weight(*scaled(joint, joint.log_p_terms(), joint.log_q_terms()))
        return value, mean_over_data(over_enumerated(joint, weighed))

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        if is_pair_scaled(pair, batch):
            return super().exact_value(pair, batch)
        return pair.exact_elbo(batch)


def enumerated(pair: Pair, batch: Batch, num_particles: int) -> Joint:
    """A run with all values of the guide's discrete sites at once."""
    try:
        joint = trace_pair(pair, batch, num_particles, enumerate_guide=True)
        check_shapes(joint)
    except Exception as error:  # of the user's code, which may raise anything
        if guide_runs_enumerated(pair, batch):
            raise
        raise ContractError(
            f"{type(pair).__name__}: found a failure with all values of the guide's discrete sites at once, along "
            f"further dimensions on the left ({error}), expected functions that take them, as `[..., n]` code does; "
            "values that are joined to others get their shape by pyro.infer.config_enumerate(guide, expand=True); or "
            "draw the sites, with ELBO(num_particles=2) or VIMCO()"
        ) from error
    return joint
