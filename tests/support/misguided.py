"""A linear VAE whose posterior has a given correlation, and guides that are wrong about it in one way each."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.models import LinearVAE


class Correlated(LinearVAE):
    """Given x, the latents have the correlation -r: `M = W'W + I = 2 I + b^2 11'`, with `b^2 = 2 r / (1 - r)`."""

    def __init__(self, correlation: float = 0.0, guide: str = "exact"):
        super().__init__(num_features=4, num_latents=2, guide=guide)
        both = (2 * correlation / (1 - correlation)) ** 0.5
        self.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [both, both], [0.0, 0.0]], dtype=self.weight.dtype)
        self.fit_guide()


class Distorted(Correlated):
    """The exact posterior, its scale and its mean changed, in standard deviations; where x[0] > 0 only, if `local`."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0, local: bool = False):
        super().__init__()
        self.scale, self.shift, self.local = scale, shift, local

    def guide(self, x: Tensor) -> None:
        exact = self.posterior(x)
        wrong = (x[:, :1] > 0) | torch.tensor(not self.local)
        scale = torch.where(wrong, self.scale, 1.0)[..., None] * exact.scale_tril
        loc = torch.where(wrong, self.shift, 0.0) * exact.variance.sqrt() + exact.loc
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale))


class FromPrior(Correlated):
    """A guide that does not look at x."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
