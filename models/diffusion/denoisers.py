"""Denoisers: networks that take a noisy x_t and its noise level `gamma_t = -log SNR`, and keep leading dimensions."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ppvae.arguments import Size, Sizes, checked
from ppvae.networks import mlp

LEAST_PERIOD, MOST_PERIOD = 2.0, 64.0  # of gamma, which goes from about -10 to 10


class NoiseEmbedding(nn.Module):
    """Sines and cosines of gamma, `[*] -> [*, size]`, with periods from 2 to 64 nats.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), for positions; Ho et al. 2020 (arXiv:2006.11239), for times.

    Args:
        size: an even number.

    Example:
        >>> NoiseEmbedding(8)(torch.zeros(7, 3)).shape
        torch.Size([7, 3, 8])
    """

    frequencies: Tensor

    def __init__(self, size: int):
        super().__init__()
        if size < 2 or size % 2:
            raise ValueError(f"size: found {size}, expected an even number, 2 or more, as the size of the embedding")
        periods = torch.logspace(math.log10(LEAST_PERIOD), math.log10(MOST_PERIOD), size // 2)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)

    def forward(self, gamma: Tensor) -> Tensor:
        angles = gamma.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)


class MLPDenoiser(nn.Module):
    """A multilayer perceptron of x_t and the embedding of gamma: `[*, num_features], [*] -> [*, num_features]`.

    Args:
        num_features: size of x.
        hidden: sizes of the hidden layers.
        embedding: size of the embedding.

    Example:
        >>> MLPDenoiser(5, [32, 32])(torch.zeros(7, 3, 5), torch.zeros(3)).shape
        torch.Size([7, 3, 5])
    """

    @checked
    def __init__(self, num_features: Size, hidden: Sequence[Size] = (256, 256), embedding: Size = 16):
        super().__init__()
        self.embedding = NoiseEmbedding(embedding)
        self.network = mlp(num_features + embedding, hidden, num_features, nn.SiLU)

    def forward(self, x: Tensor, gamma: Tensor) -> Tensor:
        embedded = self.embedding(gamma.expand(x.shape[:-1]))
        return self.network(torch.cat([x, embedded], -1))


class UNet(nn.Module):
    """A small convolutional U-Net: `[*, C, H, W], [*] -> [*, C, H, W]`.

    Each level has a residual block on the way down and one on the way up, with strided convolutions and upsampling
    between levels; feature maps from the way down are concatenated on the way up. Blocks add the embedding of gamma.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597); Ho et al. 2020 (arXiv:2006.11239), for denoising.

    Args:
        shape: `(C, H, W)`.
        channels: of each level, the finest first; each level but the first halves height and width, rounding up.
        embedding: size of the embedding.

    Example:
        >>> UNet((1, 7, 7), [8, 16])(torch.zeros(5, 3, 1, 7, 7), torch.zeros(3)).shape
        torch.Size([5, 3, 1, 7, 7])
    """

    @checked
    def __init__(self, shape: tuple[Size, Size, Size], channels: Sizes = (32, 64), embedding: Size = 32):
        super().__init__()
        num_channels = shape[0]
        self.embedding = nn.Sequential(NoiseEmbedding(embedding), nn.Linear(embedding, embedding), nn.SiLU())
        self.first = nn.Conv2d(num_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(c, c, embedding) for c in channels[:-1])
        self.halve = nn.ModuleList(nn.Conv2d(n, m, 3, stride=2, padding=1) for n, m in pairwise(channels))
        self.middle = _Block(channels[-1], channels[-1], embedding)
        self.up = nn.ModuleList(_Block(n + m, n, embedding) for n, m in pairwise(channels))
        self.last = nn.Conv2d(channels[0], num_channels, 3, padding=1)

    def forward(self, x: Tensor, gamma: Tensor) -> Tensor:
        embedded = self.embedding(gamma.expand(x.shape[:-3]).reshape(-1))
        h = self.first(x.reshape(-1, *x.shape[-3:]))
        seen = []
        for block, halve in zip(self.down, self.halve, strict=True):
            h = block(h, embedded)
            seen.append(h)
            h = halve(h)
        h = self.middle(h, embedded)
        for block, before in zip(reversed(self.up), reversed(seen), strict=True):
            h = block(torch.cat([before, interpolate(h, before.shape[-2:])], -3), embedded)
        return self.last(h).reshape(x.shape)


class _Block(nn.Module):
    """`h + conv(silu(norm(conv(silu(norm(h))) + embedding)))`."""

    def __init__(self, num_in: int, num_out: int, embedding: int):
        super().__init__()
        self.first = nn.Sequential(_group_norm(num_in), nn.SiLU(), nn.Conv2d(num_in, num_out, 3, padding=1))
        self.level = nn.Linear(embedding, num_out)
        self.second = nn.Sequential(_group_norm(num_out), nn.SiLU(), nn.Conv2d(num_out, num_out, 3, padding=1))
        self.shortcut = nn.Identity() if num_in == num_out else nn.Conv2d(num_in, num_out, 1)

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        inner = self.first(h) + self.level(embedded)[..., None, None]
        return self.shortcut(h) + self.second(inner)


def _group_norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, num_channels), num_channels)
