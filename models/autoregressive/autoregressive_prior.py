"""An autoregressive distribution as a prior, of codes above all."""

from torch import Tensor, nn

from ppvae.arguments import Observed, checked
from ppvae.models.autoregressive.autoregressive import Autoregressive
from ppvae.models.autoregressive.masked_network import MaskedNetwork


class AutoregressivePrior(nn.Module):
    """`p(c | h) = prod_i p(c_i | c_1 ... c_{i-1}, h)`: a prior of discrete latents, such as maps of codes `[H, W]`.

    Draws are not reparameterized. It starts near the uniform distribution once `init_from` has seen uniform codes.

    Source: van den Oord et al. 2017 (arXiv:1711.00937); conditional: Razavi et al. 2019 (arXiv:1906.00446).

    Args:
        network: `GatedPixelCNN((H, W), levels=K)`, say, for maps of K codes.

    Example:
        >>> import torch
        >>> from ppvae.models import GatedPixelCNN
        >>> prior = AutoregressivePrior(GatedPixelCNN((4, 4), levels=16, width=8, num_condition=3))
        >>> h = torch.zeros(5, 3, 4, 4)
        >>> codes = prior(h).sample()
        >>> codes.shape, prior(h).log_prob(codes).shape
        (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    @checked
    def __init__(self, network: MaskedNetwork):
        super().__init__()
        self.network = network

    def forward(self, h: Tensor | None = None) -> Autoregressive:
        """p(c | h), for h as `Autoregressive` takes it."""
        return Autoregressive(self.network, h)

    @checked
    def init_from(self, c: Observed) -> None:
        """Sets the network's output bias to the log frequencies of the codes."""
        self.network.init_from(c)
