"""Convolutional DRAW: latent images drawn step by step, each given those before it."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.arguments import Few, ImageShape, Size, checked
from ppvae.models.hierarchies.canvas import CanvasPair, State
from ppvae.models.parts.recurrence import lstm_update
from ppvae.networks import Fold


class ConvolutionalDRAW(CanvasPair):
    """`p(z_1) p(z_2 | z_1) ... p(x | canvas)`, with latent images and a learned prior for each step.

    z_t is an image of half of x's height and width. Its prior comes from the decoder's state, and so from the latents
    before it; the guide's from a convolutional LSTM that reads x, the canvas's error and that state. Each KL is in
    closed form given the steps before. With one step that is a convolutional VAE.

    Source: Gregor et al. 2016 (arXiv:1604.08772).

    Args:
        shape: `(C, H, W)` of images of bits; height and width are even.
        num_latents: channels of each z_t.
        num_steps: T.
        channels: of the encoder's and the decoder's state.

    Raises:
        ValueError: an odd height or width.

    Example:
        >>> pair = ConvolutionalDRAW((1, 8, 8), num_latents=2, num_steps=3, channels=8)
        >>> {name: tuple(z.shape) for name, z in pair.latents(pair.sample(5)).items()}
        {'z1': (1, 5, 2, 4, 4), 'z2': (1, 5, 2, 4, 4), 'z3': (1, 5, 2, 4, 4)}
    """

    @checked
    def __init__(self, shape: ImageShape, num_latents: Size, num_steps: Few = 8, channels: Size = 32):
        super().__init__()
        num, height, width = shape
        if height % 2 or width % 2:
            raise ValueError(
                f"shape: found {tuple(shape)}, expected an even height and width, as latents have half of them; pad or "
                "crop the images"
            )
        half = (height // 2, width // 2)
        self.num_steps = num_steps
        self.read = Fold(nn.Conv2d(2 * num, channels, 3, stride=2, padding=1), 3)
        self.write = Fold(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, num, 3, padding=1)), 3)
        self.encoder = ConvolutionalCell(2 * channels, channels, half)
        self.decoder = ConvolutionalCell(num_latents, channels, half)
        self.prior = NormalImage(Fold(nn.Conv2d(channels, 2 * num_latents, 1), 3))
        self.posterior = NormalImage(Fold(nn.Conv2d(channels, 2 * num_latents, 1), 3))
        self.example = torch.zeros(1, *shape)

    def prior_given(self, state: State) -> dist.TorchDistribution:
        return self.prior(state[0])

    def seen(self, x: Tensor, canvas: Tensor, state: Tensor) -> Tensor:
        return stacked(self.read(stacked(x, x - canvas.sigmoid())), state)

    def written(self, canvas: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        state = self.decoder(z, state)
        return canvas + self.write(state[0]), state


class NormalImage(nn.Module):
    """Independent Gaussians for the entries of an image, by a network of maps.

    Args:
        network: `[*, n, H, W] -> [*, 2 D, H, W]`; sigma is the softplus of the second half, 1 where that is zero.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        loc, unconstrained = self.network(h).chunk(2, -3)
        return dist.Normal(loc, softplus(unconstrained + OF_ONE)).to_event(3)


OF_ONE = 0.5413248546129181
"""`log(e - 1)`, whose softplus is 1."""


class ConvolutionalCell(nn.Module):
    """An LSTM's step on maps, with any leading dimensions.

    Args:
        num_in: channels of the input.
        channels: of the state.
        size: `(H, W)` of both.
    """

    def __init__(self, num_in: int, channels: int, size: tuple[int, int]):
        super().__init__()
        self.shape = (channels, *size)
        self.gates = Fold(nn.Conv2d(num_in + channels, 4 * channels, 3, padding=1), 3)

    def start(self, x: Tensor) -> State:
        """Zeros, for each row of x."""
        zeros = x.new_zeros(len(x), *self.shape)
        return zeros, zeros

    def forward(self, inputs: Tensor, state: State) -> State:
        return lstm_update(self.gates(stacked(inputs, state[0])), state[1], dim=-3)


def stacked(*maps: Tensor) -> Tensor:
    """The channels of maps `[*, n_i, H, W]` one after another; their leading dimensions are broadcast."""
    leading = torch.broadcast_shapes(*(each.shape[:-3] for each in maps))
    return torch.cat([each.expand(*leading, *each.shape[-3:]) for each in maps], -3)
