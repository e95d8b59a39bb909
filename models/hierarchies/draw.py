"""DRAW: a recurrent VAE that adds to a canvas step by step, and reads what is still missing."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Few, GrayShape, Size, checked
from ppvae.models.hierarchies.canvas import CanvasPair, State
from ppvae.models.hierarchies.glimpses import GaussianWindow, WholeImage
from ppvae.models.parts.conditionals import DiagonalNormal
from ppvae.models.parts.joining import joined
from ppvae.models.parts.priors import StandardNormal
from ppvae.models.parts.recurrence import lstm_update


class DRAW(CanvasPair):
    """`z_1 ... z_T ~ N(0, I)`; each moves a decoder's state and adds to a canvas; x is Bernoulli with the last one.

    The guide draws z_t from what it reads of x and of the canvas's error, and from the decoder's state: it runs the
    model's own decoder, so that these parameters belong to both. Each KL is in closed form given the steps before. With
    one step and no attention that is a VAE.

    Source: Gregor et al. 2015 (arXiv:1502.04623).

    Args:
        shape: `(H, W)` of images of bits, `[1, H, W]`.
        num_latents: size of each z_t.
        num_steps: T.
        hidden: size of the encoder's and the decoder's state.
        window: side N of the grids of filters by which it reads and writes; None for whole images, without attention.

    Raises:
        ValueError: a shape that is not `(H, W)`.

    Example:
        >>> pair = DRAW((8, 8), num_latents=4, num_steps=3, hidden=20, window=3)
        >>> x = pair.sample(5)
        >>> list(pair.latents(x)), x.shape
        (['z1', 'z2', 'z3'], torch.Size([5, 1, 8, 8]))
    """

    @checked
    def __init__(
        self, shape: GrayShape, num_latents: Size, num_steps: Few = 8, hidden: Size = 128, window: Few | None = None
    ):
        super().__init__()
        size = (shape[0], shape[1])
        self.num_steps = num_steps
        self.prior = StandardNormal(num_latents)
        self.glimpse = WholeImage(size, hidden) if window is None else GaussianWindow(size, hidden, window)
        self.encoder = RecurrentCell(2 * self.glimpse.num_read + hidden, hidden)
        self.decoder = RecurrentCell(num_latents, hidden)
        self.posterior = DiagonalNormal(nn.Linear(hidden, 2 * num_latents))
        self.example = torch.zeros(1, 1, *size)

    def prior_given(self, state: State) -> dist.TorchDistribution:
        return self.prior()  # whatever came before

    def seen(self, x: Tensor, canvas: Tensor, state: Tensor) -> Tensor:
        """Glimpses of x and of what the canvas is off by, and the decoder's state."""
        read = [self.glimpse.read(image, state) for image in (x, x - canvas.sigmoid())]
        return joined(*read, state)

    def written(self, canvas: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        state = self.decoder(z, state)
        return canvas + self.glimpse.write(state[0]), state


class RecurrentCell(nn.Module):
    """An LSTM's step, `[*, num_in]` and a state and cell `[*, hidden]` to the next ones, with any leading dimensions.

    Args:
        num_in: size of the input.
        hidden: size of the state.
    """

    def __init__(self, num_in: int, hidden: int):
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Linear(num_in + hidden, 4 * hidden)

    def start(self, x: Tensor) -> State:
        """Zeros, for each row of x."""
        zeros = x.new_zeros(len(x), self.hidden)
        return zeros, zeros

    def forward(self, inputs: Tensor, state: State) -> State:
        return lstm_update(self.gates(joined(inputs, state[0])), state[1], dim=-1)
