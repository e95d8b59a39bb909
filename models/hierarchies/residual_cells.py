"""Residual cells for images `[N, C, H, W]`: the building blocks of both paths of a deep convolutional hierarchy.

Source: Vahdat & Kautz 2020 (arXiv:2007.03898), figure 3; squeeze-excite: Hu et al. 2018 (arXiv:1709.01507).
"""

from torch import Tensor, nn

from ppvae.recomputation import recomputed

MOMENTUM = 0.05
"""Of batch norm's running statistics."""
RESIDUAL_SCALE = 0.1
"""Scales what a cell adds, so that a deep stack starts near the identity."""
EXPANSION = 6
"""The factor by which the cells of the top-down path expand their channels."""


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1), computed from all channels' means over the image.

    Args:
        channels: C.

    Example:
        >>> import torch
        >>> SqueezeExcite(8)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
            nn.Unflatten(1, (channels, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ResidualCell(nn.Module):
    """`x + 0.1 f(x)`.

    Args:
        body: f, which keeps the shape.
        recompute: keep only x for the backward pass, and run f again there (`ppvae.recomputation`).
    """

    def __init__(self, body: nn.Module, recompute: bool = False):
        super().__init__()
        self.body = body
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * (recomputed(self.body, x) if self.recompute else self.body(x))


def generative_cell(channels: int, recompute: bool = False) -> ResidualCell:
    """The top-down path's cell: expands the channels, convolves each of them 5x5, and merges them again.

    The depthwise convolution has a wide receptive field and few weights.

    Args:
        channels: C.
        recompute: save memory, as in `ResidualCell`.

    Example:
        >>> import torch
        >>> generative_cell(8)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """
    wide = EXPANSION * channels
    body = nn.Sequential(
        nn.BatchNorm2d(channels, momentum=MOMENTUM, affine=False),  # the next norm would undo a shift
        nn.Conv2d(channels, wide, 1, bias=False),
        _batch_norm(wide),
        nn.SiLU(),
        nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
        _batch_norm(wide),
        nn.SiLU(),
        nn.Conv2d(wide, channels, 1, bias=False),
        _batch_norm(channels),
        SqueezeExcite(channels),
    )
    return ResidualCell(body, recompute)


def encoder_cell(channels: int, recompute: bool = False) -> ResidualCell:
    """The bottom-up path's cell: two plain 3x3 convolutions.

    Args:
        channels: C.
        recompute: save memory, as in `ResidualCell`.

    Example:
        >>> import torch
        >>> encoder_cell(8)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """
    body = nn.Sequential(
        _batch_norm(channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        _batch_norm(channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        SqueezeExcite(channels),
    )
    return ResidualCell(body, recompute)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM)
