"""An autoregressive distribution as a likelihood: what the decoder computes from z conditions a masked network."""

from torch import Tensor, nn

from ppvae.arguments import Observed, checked
from ppvae.models.autoregressive.autoregressive import Autoregressive
from ppvae.models.autoregressive.masked_network import MaskedNetwork
from ppvae.models.parts.likelihood import Likelihood


class AutoregressiveLikelihood(Likelihood):
    """`p(x | z) = prod_i p(x_i | x_1 ... x_{i-1}, h(z))`: the likelihood of a PixelVAE.

    It can model all of p(x) without z. What the network sees of x, z need not say: the wider its view, the less the
    latents hold, down to nothing.

    Source: Gulrajani et al. 2017 (arXiv:1611.05013); Chen et al. 2017 (arXiv:1611.02731).

    Args:
        decoder: `[*, D]` to the condition h: `[*, num_condition]` for vectors, `[*, num_condition, H, W]` for images.
        network: with that condition.

    Example:
        >>> import torch
        >>> from ppvae.models import MADE
        >>> p = AutoregressiveLikelihood(nn.Linear(2, 6), MADE(5, levels=2, hidden=[8], num_condition=6))
        >>> p(torch.zeros(4, 2)).sample().shape
        torch.Size([4, 5])
    """

    @checked
    def __init__(self, decoder: nn.Module, network: MaskedNetwork):
        super().__init__()
        self.decoder, self.network = decoder, network

    def forward(self, z: Tensor) -> Autoregressive:
        return Autoregressive(self.network, self.decoder(z))

    @checked
    def init_from(self, x: Observed) -> None:
        """Sets the network's output bias to the log frequencies of the levels in the data."""
        self.network.init_from(x)
