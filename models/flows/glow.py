"""Glow: a multi-scale flow of images."""

from collections.abc import Sequence
from math import prod

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_transform import ComposeTransformModule
from pyro.distributions.transforms import AffineCoupling, GeneralizedChannelPermute
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import ReshapeTransform
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ppvae.arguments import Few, Size, checked
from ppvae.models.flows.actnorm import ActNorm
from ppvae.models.flows.flow import Flow
from ppvae.models.flows.transforms import Bijection, init_from
from ppvae.models.parts.priors import StandardNormal
from ppvae.networks import Fold

Shape = tuple[Size, Size, Size]


class Glow(Flow):
    """Steps of couplings, invertible 1x1 convolutions and normalizations, one scale after another.

    Seen from the data, a level folds each 2x2 block of pixels into channels and takes its steps; then half of the
    channels become noise, given the other half, which goes on to the next level. Call `init_from` with a batch of data
    before training: it sets each normalization so that its output has mean 0 and variance 1 in each channel.

    Dequantize gray levels (`Dequantized`, or `ppvae.datasets.load(..., images=True, dequantize=True)`);
    otherwise the density grows without bound.

    Source: Kingma & Dhariwal 2018 (arXiv:1807.03039).

    Args:
        shape: `(C, H, W)` of the images; H and W divisible by `2^num_levels`.
        num_levels: how many scales.
        num_steps: steps at each level.
        num_hidden: channels of the hidden layers of each coupling's network.

    Raises:
        ValueError: a height or width that cannot be halved as often as there are levels.

    Example:
        >>> glow = Glow((1, 8, 8), num_levels=2, num_steps=2, num_hidden=8).init_from(torch.rand(50, 1, 8, 8))
        >>> glow.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    @checked
    def __init__(self, shape: Shape, num_levels: Few = 2, num_steps: Few = 4, num_hidden: Size = 64):
        if shape[1] % 2**num_levels or shape[2] % 2**num_levels:
            raise ValueError(
                f"shape, num_levels: found height {shape[1]} and width {shape[2]} with {num_levels} levels, expected "
                f"both divisible by 2^num_levels; take fewer levels (1 at least), or pad the images"
            )
        super().__init__(StandardNormal(prod(shape)), _level(shape, num_levels, num_steps, num_hidden))


def _level(shape: Shape, num_levels: int, num_steps: int, num_hidden: int) -> list[Transform]:
    """From a vector of noise to an image of the given shape."""
    channels, height, width = shape
    folded = (4 * channels, height // 2, width // 2)
    transforms: list[Transform] = [ReshapeTransform(torch.Size((prod(folded),)), torch.Size(folded), cache_size=1)]
    if num_levels > 1:
        half = (2 * channels, *folded[1:])
        transforms = [Split(_level(half, num_levels - 1, num_steps, num_hidden), half), _coupling(folded, num_hidden)]
    for _ in range(num_steps):
        transforms += [_coupling(folded, num_hidden), _mixing(folded[0]), ActNorm(folded[0], 1, 1)]
    return [*transforms, Unfold()]


def _coupling(shape: Shape, num_hidden: int) -> Transform:
    kept = shape[0] // 2
    return AffineCoupling(kept, _ConvolutionalShiftAndScale((kept, *shape[1:]), num_hidden, shape[0] - kept), dim=-3)


def _mixing(num_channels: int) -> Transform:
    """An invertible 1x1 convolution, its LU factor stored row by row, as fused optimizers require."""
    transform = GeneralizedChannelPermute(num_channels)
    transform.LU.data = transform.LU.data.contiguous()
    return transform


class Split(Bijection):
    """Further transforms turn half of the noise into half of the channels; the rest is the other half, unchanged."""

    def __init__(self, deeper: Sequence[Transform], shape: Shape):
        super().__init__(event_dim=3, noise_dim=1)
        self.deeper = ComposeTransformModule(list(deeper))
        self.deeper_shape = torch.Size(shape)

    def push(self, z: Tensor) -> Tensor:
        noise, here = z.chunk(2, -1)
        return torch.cat([self.deeper(noise), here.unflatten(-1, self.deeper_shape)], -3)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, here = x.chunk(2, -3)
        noise = self.deeper.inv(first)
        return torch.cat([noise, here.flatten(-3)], -1), -self.deeper.log_abs_det_jacobian(noise, first)

    def init_from(self, x: Tensor) -> None:
        """Initializes the further transforms from their half of the channels."""
        init_from(self.deeper.parts, x.chunk(2, -3)[0])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], 2 * self.deeper_shape[0], *self.deeper_shape[1:]))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-3], 2 * self.deeper_shape.numel()))


class Unfold(Transform):
    """Turns every four channels into the 2x2 blocks of one: `[4 C, H, W] -> [C, 2 H, 2 W]`."""

    domain = codomain = constraints.independent(constraints.real, 3)
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)

    def _call(self, x: Tensor) -> Tensor:
        return pixel_shuffle(x, 2)

    def _inverse(self, y: Tensor) -> Tensor:
        return pixel_unshuffle(y, 2)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-3])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-3], shape[-3] // 4, 2 * shape[-2], 2 * shape[-1]))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-3], 4 * shape[-3], shape[-2] // 2, shape[-1] // 2))


class _ConvolutionalShiftAndScale(nn.Module):
    """A coupling's network on flattened images: three convolutions, the last initialized to zero (the identity)."""

    def __init__(self, shape: Shape, num_hidden: int, num_out: int):
        super().__init__()
        self.shape = shape
        last = nn.Conv2d(num_hidden, 2 * num_out, 3, padding=1)
        for p in last.parameters():
            nn.init.zeros_(p)
        layers = [nn.Conv2d(shape[0], num_hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(num_hidden, num_hidden, 1)]
        self.network = Fold(nn.Sequential(*layers, nn.ReLU(), last), event_dim=3)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(z.unflatten(-1, self.shape)).chunk(2, -3)
        return shift.flatten(-3), log_scale.flatten(-3)
