"""A flow as a pair: a density in closed form, and no latents."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_transform import ComposeTransformModule
from torch import Tensor, nn
from torch.distributions import Transform

from ppvae.arguments import Observed, checked
from ppvae.batches import of_batch
from ppvae.conversion import floating_type
from ppvae.models.flows.transforms import fresh, init_from
from ppvae.pair import Pair
from ppvae.refusals import fitting, refuse_shape


class Flow(Pair):
    """`x = T_n(... T_1(z))`, z from the base: noise turned into data by invertible maps.

    `log p(x) = log p_base(z) + log |det dz/dx|`, exact: the evidence is known, the guide is empty, the gap is zero.
    Maps are continuous, so x's support has the topology of the base's: a flow of a Gaussian leaves thin bridges
    between modes.

    Source: Rezende & Mohamed 2015 (arXiv:1505.05770); Papamakarios et al. 2021 (arXiv:1912.02762).

    Args:
        base: forward() returns p(z).
        transforms: T_1 ... T_n in the order of sampling, each Pyro's, torch's or a `Bijection`.

    Raises:
        ValueError: a transform that is not bijective, or an inverse view (`T.inv`), which does not own its parameters.

    Example:
        >>> from ppvae.models import StandardNormal
        >>> flow = Flow(StandardNormal(2), [dist.transforms.spline_coupling(2), dist.transforms.planar(2)][:1])
        >>> flow.log_prob(flow.sample(5)).shape
        torch.Size([5])
    """

    @checked
    def __init__(self, base: nn.Module, transforms: Sequence[Transform]):
        super().__init__()
        for number, transform in enumerate(transforms):
            _refuse(number, transform)
        self.base = base
        self.transforms = ComposeTransformModule(list(transforms))
        with torch.no_grad():
            self.example = torch.zeros(1, *self.distribution().event_shape)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", self.distribution(), obs=x)

    def guide(self, x: Tensor) -> None:
        """Nothing to infer: z is a function of x."""

    def distribution(self) -> dist.TransformedDistribution:
        """p(x). In training mode, a flow with a costly log-determinant may estimate it without bias."""
        return self._distribution(self.training)

    @of_batch
    @checked
    def log_prob(self, x: Observed) -> Tensor:
        """`log p(x)`, `[B]`, in nats; exact in training mode too."""
        distribution = self._distribution(training=False)
        return distribution.log_prob(fitting(x, distribution.event_shape, floating_type(self) or x.dtype))

    @of_batch
    def exact_elbo(self, x: Tensor) -> Tensor:
        """`log p(x)`: without latents nothing is lost."""
        return self.log_prob(x)

    @checked
    def init_from(self, x: Observed) -> "Flow":
        """Initializes from data the transforms that support it, such as Glow's normalizations; returns self."""
        refuse_shape(x, self.distribution().event_shape)
        init_from(self.transforms.parts, x)
        return self

    def _distribution(self, training: bool) -> dist.TransformedDistribution:
        return dist.TransformedDistribution(self.base(), fresh(self.transforms.parts, training=training))


def _refuse(number: int, transform: Transform) -> None:
    if not transform.bijective:
        raise ValueError(
            f"transforms[{number}]: found {type(transform).__name__}, which has no inverse, expected a bijective one"
        )
    if not isinstance(transform, nn.Module) and isinstance(transform.inv, nn.Module):
        raise ValueError(
            f"transforms[{number}]: found the inverse of {type(transform.inv).__name__}, expected a transform that "
            "owns its parameters; write a ppvae.models.Bijection whose `pull` calls it"
        )
