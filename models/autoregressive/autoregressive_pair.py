"""An autoregressive distribution as a pair: a probability in closed form, and no latents."""

import pyro
import torch
from torch import Tensor

from ppvae.arguments import Observed, Rows, checked
from ppvae.batches import of_batch
from ppvae.models.autoregressive.autoregressive import Autoregressive
from ppvae.models.autoregressive.masked_network import MaskedNetwork
from ppvae.pair import Pair
from ppvae.refusals import refuse_shape


class AutoregressivePair(Pair):
    """`p(x) = prod_i p(x_i | x_1 ... x_{i-1})`: MADE, PixelCNN and their like.

    The evidence is known, the guide is empty, the gap is zero. Drawing takes a step for each entry.

    Source: van den Oord et al. 2016 (arXiv:1601.06759).

    Args:
        network: without a condition.

    Raises:
        ValueError: a network that has a condition.

    Example:
        >>> from ppvae.models import PixelCNN
        >>> pair = AutoregressivePair(PixelCNN((1, 4, 4), levels=2, width=8, num_blocks=1))
        >>> x = pair.sample(5)
        >>> torch.equal(pair.log_weights(x, num_particles=1).log_w[0], pair.log_prob(x))
        True
    """

    @checked
    def __init__(self, network: MaskedNetwork):
        super().__init__()
        self.network = network
        Autoregressive(network)  # refuses a condition
        nothing = torch.zeros(1, *network.event_shape, dtype=torch.long)
        self.example = network.alphabet.value(nothing, torch.get_default_dtype())

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", Autoregressive(self.network), obs=x)

    def guide(self, x: Tensor) -> None:
        """Nothing to infer: there are no latents."""

    @of_batch
    @checked
    def log_prob(self, x: Rows) -> Tensor:
        """`log p(x)`, `[B]`, in nats."""
        refuse_shape(x, self.network.event_shape)
        return Autoregressive(self.network).log_prob(x)

    @of_batch
    def exact_elbo(self, x: Tensor) -> Tensor:
        """`log p(x)`: without latents nothing is lost."""
        return self.log_prob(x)

    @checked
    def init_from(self, x: Observed) -> "AutoregressivePair":
        """Sets the network's output bias to the log frequencies of the levels in the data; returns self."""
        self.network.init_from(x)
        return self
