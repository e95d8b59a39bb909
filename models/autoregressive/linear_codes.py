"""The least of masked networks: the logits of each code are linear in those before it."""

from itertools import product
from math import prod

import torch
from torch import Tensor, nn

from ppvae.arguments import Size, Sizes, checked
from ppvae.models.autoregressive.alphabets import Codes
from ppvae.models.autoregressive.masked_network import MaskedNetwork, Memory


class LinearCodes(MaskedNetwork):
    """Logits `b_p + sum_{q<p} W_pq[c_q]` of the code at each position, in raster order; uniform at first.

    Its `P (P - 1) K^2 / 2` weights suit few positions; for maps, take `GatedPixelCNN`.

    Source: Frey et al. 1996, for bits: the fully visible belief network.

    Args:
        shape: of the positions: `(P,)` or `(H, W)`.
        num_codes: K.

    Example:
        >>> from ppvae.models import AutoregressivePrior
        >>> prior = AutoregressivePrior(LinearCodes((2,), num_codes=3))
        >>> prior().log_prob(torch.tensor([0, 2])).exp()
        tensor(0.1111, grad_fn=<ExpBackward0>)
        >>> prior().sample((5,)).shape
        torch.Size([5, 2])
    """

    earlier: Tensor

    @checked
    def __init__(self, shape: Sizes, num_codes: Size):
        super().__init__()
        num = prod(shape)
        self.event_shape, self.alphabet, self.num_condition = tuple(shape), Codes(num_codes), 0
        self.order = list(product(*map(range, shape)))
        self.bias = nn.Parameter(torch.zeros(num, num_codes))
        self.weight = nn.Parameter(torch.zeros(num, num_codes, num, num_codes))
        self.register_buffer("earlier", torch.ones(num, num).tril(-1)[:, None, :, None], persistent=False)

    def forward(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        found = self.bias + torch.einsum("pkqj,njq->npk", self.weight * self.earlier, inputs.flatten(2))
        return found.unflatten(1, self.event_shape)

    def step(self, inputs: Tensor, h: Tensor | None, entry: tuple[int, ...], memory: Memory) -> Tensor:
        p = self.order.index(entry)
        return self.bias[p] + torch.einsum("kqj,njq->nk", self.weight[p, :, :p], inputs.flatten(2)[..., :p])

    def start_at(self, count: Tensor) -> None:
        frequency = count / count.sum(-1, keepdim=True)
        self.bias.data.copy_(frequency.log().flatten(0, -2))
