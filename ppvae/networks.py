"""Networks that keep any number of leading dimensions, as particles need."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from ppvae.arguments import Natural, RealTensor, Size, Sizes, checked


@checked
def mlp(
    num_in: Size,
    hidden: Sequence[Size],
    num_out: Size,
    activation: type[nn.Module] = nn.Tanh,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A multilayer perceptron, `[*, num_in] -> [*, num_out]`: `hidden_layers`, then a linear one.

    Example:
        >>> import torch
        >>> mlp(784, [200, 200], 50)(torch.zeros(7, 3, 784)).shape
        torch.Size([7, 3, 50])
    """
    last = [num_in, *hidden][-1]
    return nn.Sequential(*hidden_layers(num_in, hidden, activation, batch_norm), nn.Linear(last, num_out))


@checked
def hidden_layers(
    num_in: Size, hidden: Sequence[Size], activation: type[nn.Module] = nn.Tanh, batch_norm: bool = False
) -> nn.Sequential:
    """Linear layers, each followed by `activation`: `[*, num_in] -> [*, hidden[-1]]`.

    With `batch_norm` the input of each activation is normalized to a learned mean and variance: in training by the
    statistics of the batch and its particles, in evaluation by running averages.

    Example:
        >>> import torch
        >>> hidden_layers(784, [200, 100], batch_norm=True)(torch.zeros(7, 3, 784)).shape
        torch.Size([7, 3, 100])
    """
    layers: list[nn.Module] = []
    for n, m in pairwise([num_in, *hidden]):
        norm = [Fold(nn.BatchNorm1d(m), event_dim=1)] if batch_norm else []
        layers += [nn.Linear(n, m), *norm, activation()]
    return nn.Sequential(*layers)


class Fold(nn.Module):
    """Wraps a network that takes one leading dimension so that it takes any number: `[*, *event]`.

    Args:
        network: takes `[N, *event]`.
        event_dim: number of event dimensions of its input; 3 for images `[C, H, W]`.

    Example:
        >>> import torch
        >>> Fold(nn.Conv2d(1, 4, 3), event_dim=3)(torch.zeros(7, 3, 1, 8, 8)).shape
        torch.Size([7, 3, 4, 6, 6])
    """

    @checked
    def __init__(self, network: nn.Module, event_dim: Natural):
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        leading, event = x.shape[: x.dim() - self.event_dim], x.shape[x.dim() - self.event_dim :]
        out = self.network(x.reshape(-1, *event))
        return out.reshape(*leading, *out.shape[1:])


@checked
def convolutional_encoder(
    shape: tuple[Size, Size, Size], channels: Sizes, num_out: Size, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Strided 3x3 convolutions, then a linear layer: `[*, C, H, W] -> [*, num_out]`.

    Each convolution halves height and width (rounding up).

    Args:
        shape: `(C, H, W)` of the images.
        channels: output channels of each convolution.
        num_out: size of the output.

    Example:
        >>> import torch
        >>> convolutional_encoder((1, 28, 28), [16, 32], 20)(torch.zeros(7, 3, 1, 28, 28)).shape
        torch.Size([7, 3, 20])
    """
    num_in, height, width = shape
    layers: list[nn.Module] = []
    for num_channels in channels:
        layers += [nn.Conv2d(num_in, num_channels, 3, stride=2, padding=1), activation()]
        num_in, height, width = num_channels, (height + 1) // 2, (width + 1) // 2
    return Fold(nn.Sequential(*layers, nn.Flatten(), nn.Linear(num_in * height * width, num_out)), event_dim=3)


@checked
def convolutional_decoder(
    num_in: Size, channels: Sizes, shape: tuple[Size, Size, Size], activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """A linear layer, then bilinear upsampling and 3x3 convolutions: `[*, num_in] -> [*, C, H, W]`.

    Upsampling followed by convolution avoids the checkerboard of transposed convolutions (Odena et al. 2016).

    Args:
        num_in: size of the input.
        channels: channels of the maps, coarsest first; each is upsampled once, so `[32, 16]` starts at H/4 x W/4.
        shape: `(C, H, W)` of the images.

    Example:
        >>> import torch
        >>> convolutional_decoder(20, [32, 16], (1, 28, 28))(torch.zeros(7, 3, 20)).shape
        torch.Size([7, 3, 1, 28, 28])
    """
    num_out, *size = shape
    sizes = [tuple(-(-side // 2**level) for side in size) for level in range(len(channels), -1, -1)]
    start = (channels[0], *sizes[0])
    layers: list[nn.Module] = [nn.Linear(num_in, prod(start)), activation(), nn.Unflatten(1, start)]
    for n, m, target in zip(channels, [*channels[1:], num_out], sizes[1:], strict=True):
        layers += [nn.Upsample(target, mode="bilinear"), nn.Conv2d(n, m, 3, padding=1), activation()]
    return Fold(nn.Sequential(*layers[:-1]), event_dim=1)


@checked
def inverse_softplus(value: RealTensor) -> Tensor:
    """`log(exp(value) - 1)` of positive values, without overflow, to initialize a parameter whose softplus is used.

    Example:
        >>> import torch
        >>> nn.functional.softplus(inverse_softplus(torch.tensor([0.1, 1.0, 1000.0])))
        tensor([1.0000e-01, 1.0000e+00, 1.0000e+03])
    """
    return value + torch.log(-torch.expm1(-value))


@checked
def output_bias(network: nn.Module) -> Tensor:
    """The bias of a network's last linear or convolutional layer, which sets its output at the start of training."""
    biases = [m.bias for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None]
    if not biases:
        raise ValueError(
            f"{type(network).__name__}: found no layer with a bias, expected one to set; give the last layer one"
        )
    return biases[-1]
