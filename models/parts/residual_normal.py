"""A Gaussian posterior parameterized relative to its prior."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Normal, register_kl

from ppvae.arguments import RealTensor, checked


class ResidualNormal(dist.Normal):
    """`N(mu + delta_mu, (sigma delta_sigma)^2)`, relative to the prior `N(mu, sigma^2)`; elementwise.

    Its divergence from that prior is a function of the deltas, `KL = (delta_mu^2 / sigma^2 + delta_sigma^2 - 1) / 2 -
    log delta_sigma`, and is computed from them. So it stays precise however narrow the prior is, where torch's formula
    would subtract locations that agree in all their digits. The divergence from another Normal is also right, but
    less precise. `ppvae.ELBO()` and `torch.distributions.kl_divergence` use it automatically.

    As the posterior moves with its prior, a layer that is not used costs nothing.

    Source: Vahdat & Kautz 2020 (arXiv:2007.03898).

    Args:
        delta_loc: `delta_mu`, broadcast with the prior.
        delta_scale: `delta_sigma`, positive, broadcast with the prior.
        prior: a Normal; for `Normal(...).to_event(1)`, its `base_dist`.

    Example:
        >>> prior = dist.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1e-6]))
        >>> posterior = ResidualNormal(torch.tensor([1.0, 1e-7]), torch.ones(2), prior)
        >>> torch.distributions.kl_divergence(posterior, prior)
        tensor([0.5000, 0.0050])
    """

    arg_constraints = {"delta_loc": constraints.real, "delta_scale": constraints.positive}  # noqa: RUF012

    @checked
    def __init__(
        self, delta_loc: RealTensor, delta_scale: RealTensor, prior: Normal, validate_args: bool | None = None
    ):
        shape = torch.broadcast_shapes(delta_loc.shape, delta_scale.shape, prior.batch_shape)
        self.delta_loc, self.delta_scale = delta_loc.expand(shape), delta_scale.expand(shape)
        self.prior = prior.expand(shape)
        super().__init__(self.prior.loc + delta_loc, self.prior.scale * delta_scale, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "ResidualNormal":
        deltas = self.delta_loc.expand(batch_shape), self.delta_scale.expand(batch_shape)
        return ResidualNormal(*deltas, self.prior, validate_args=False)


@register_kl(ResidualNormal, Normal)
def _kl_from_normal(q: ResidualNormal, p: Normal) -> Tensor:
    """Where p is the prior of q, the inner parentheses are exactly 0 and 1, and only the deltas remain."""
    shift = (q.delta_loc + (q.prior.loc - p.loc)) / p.scale
    ratio = q.delta_scale * (q.prior.scale / p.scale)
    return (shift.square() + ratio.square() - 1) / 2 - ratio.log()
