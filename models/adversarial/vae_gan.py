"""VAE/GAN: a VAE whose reconstructions are compared by what a critic sees in them."""

import torch
from torch import Tensor, nn

from ppvae.arguments import checked
from ppvae.models.adversarial.with_critic import WithCritic
from ppvae.models.vae import VAE


class VAEGAN(WithCritic):
    """A VAE with a critic, `D(x) = head(features(x))`, that tells data from draws and reconstructions.

    Train it by `FeatureELBO`, in whose surrogate `N(features(x); features(E[x | z]), I)` takes the place of p(x | z),
    with rates of their own for VAE and critic (`ParameterGroups`). Evidence, ELBO and ledger are those of the VAE
    underneath, as it was trained: with p(x | z) between pixels, which training did not look at. A sigma that p(x | z)
    learns keeps its start; afterwards `vae.likelihood.start_sigma` sets it to the spread of the residuals.

    Source: Larsen et al. 2016 (arXiv:1512.09300).

    Args:
        vae: with a mean of p(x | z), as all likelihoods of real or binary data have; it is shared, not copied.
        features: `[*, *event] -> [*, F]`.
        head: `[*, F] -> [*, 1]`, the logit of being data.

    Example:
        >>> vae = VAE.mlp(num_features=5, num_latents=2, hidden=[8], likelihood="gaussian")
        >>> pair = VAEGAN(vae, features=nn.Sequential(nn.Linear(5, 8), nn.Tanh()), head=nn.Linear(8, 1))
        >>> pair.sample(3).shape
        torch.Size([3, 5])
    """

    pair: VAE

    @checked
    def __init__(self, vae: VAE, features: nn.Module, head: nn.Module):
        super().__init__(vae)
        self.critic = nn.Sequential(features, head)

    @property
    def features(self) -> nn.Module:
        """The layers of the critic in which reconstructions are compared."""
        return self.critic[0]

    def generate(self, *shape: int) -> Tensor:
        """`E[x | z]` of draws of the prior, with gradients, `[*shape, *event]`."""
        return self.decode(self.pair.prior().sample(torch.Size(shape)))

    def decode(self, z: Tensor) -> Tensor:
        """`E[x | z]`, `[*, D] -> [*, *event]`."""
        return self.pair.likelihood(z).mean
