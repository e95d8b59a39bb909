"""The density of a generator's draws with noise added: how log p(x) of a GAN has been measured."""

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppvae.arguments import Positive, checked
from ppvae.models.adversarial.gan import GAN
from ppvae.pair import Pair


class NoisyGenerator(Pair):
    """`z ~ N(0, I)`, `x ~ N(G(z), sigma^2 I)`: another model than the GAN, with its generator and a density.

    The guide is the prior, so importance weights are hopeless but for large sigma, and the ELBO is very low. Measure it
    by annealed importance sampling from the prior, with both sides on its own data to say how accurate that is:

        annealing = AIS(num_chains=16, num_temperatures=10_000, num_leapfrog=10, start="prior")
        ppvae.log_evidence(noisy, x, "bdmc", annealing=annealing)

    A small sigma needs many temperatures. What is measured is the *noisy* model's log p(x), at this sigma: a sum of
    small Gaussians about all that the generator draws. It says nothing of the GAN's own law, which has no density, and
    depends on sigma: compare models at equal sigma.

    Source: Wu et al. 2017 (arXiv:1611.04273).

    Args:
        gan: whose generator is taken; it is shared, not copied.
        sigma: of the noise, in the units of x.

    Example:
        >>> noisy = NoisyGenerator(GAN.mlp(num_features=5, num_latents=2), sigma=0.1)
        >>> noisy.sample(3).shape
        torch.Size([3, 5])
    """

    amortization_undefined = "the guide of a noisy generator is its prior, for all data alike"

    @checked
    def __init__(self, gan: GAN, sigma: Positive):
        super().__init__()
        self.gan, self.sigma = gan, sigma
        self.example = gan.example

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            mean = self.gan.generator(pyro.sample("z", self._prior(x)))
            pyro.sample("x", dist.Normal(mean, self.sigma).to_event(x.dim() - 1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self._prior(x))

    def extra_repr(self) -> str:
        return f"the density of G(z) + N(0, {self.sigma:g}^2), not of the generator"

    def _prior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(x.new_zeros(self.gan.num_latents), 1.0).to_event(1)
