"""A pair with a critic of its latents, as FactorVAE needs it."""

from torch import nn

from ppvae.arguments import checked
from ppvae.models.adversarial.with_critic import WithCritic
from ppvae.pair import Pair


class LatentCritic(WithCritic):
    """A pair with a critic that tells draws of q(z) from such of `prod_j q(z_j)`, the product of its margins.

    Train it by `FactorVAE`, with rates of their own for pair and critic (`ParameterGroups`). All that is measured is
    that of the pair underneath, as it was trained.

    Source: Kim & Mnih 2018 (arXiv:1802.05983).

    Args:
        pair: with a guide of one site, of independent Gaussian numbers; it is shared, not copied.
        latent_critic: `[*, D] -> [*, 1]`, the logit of being from q(z).

    Example:
        >>> from ppvae.models import VAE
        >>> from ppvae.networks import mlp
        >>> pair = LatentCritic(VAE.mlp(num_features=5, num_latents=2, hidden=[8]), mlp(2, [8], 1))
        >>> pair.sample(3).shape
        torch.Size([3, 5])
    """

    @checked
    def __init__(self, pair: Pair, latent_critic: nn.Module):
        super().__init__(pair)
        self.latent_critic = latent_critic
