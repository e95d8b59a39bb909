"""What DRAW reads of an image, and where it writes: all of it, or a window of Gaussian filters."""

import torch
from torch import Tensor, nn


class WholeImage(nn.Module):
    """No attention: all pixels are read, and a linear layer writes all.

    Args:
        shape: `(H, W)`.
        hidden: size of the decoder's state.
    """

    def __init__(self, shape: tuple[int, int], hidden: int):
        super().__init__()
        self.shape, self.num_read = shape, shape[0] * shape[1]
        self.patch = nn.Linear(hidden, self.num_read)

    def read(self, image: Tensor, state: Tensor) -> Tensor:
        """`[*, 1, H, W]` as `[*, num_read]`."""
        return image.flatten(-3)

    def write(self, state: Tensor) -> Tensor:
        """What is added to the canvas, `[*, 1, H, W]`."""
        return self.patch(state).unflatten(-1, (1, *self.shape))


class GaussianWindow(nn.Module):
    """Attention: an N x N grid of Gaussian filters, placed by the decoder's state, one for reading, one for writing.

    Source: Gregor et al. 2015 (arXiv:1502.04623).

    Args:
        shape: `(H, W)`.
        hidden: size of the decoder's state.
        side: N.
    """

    def __init__(self, shape: tuple[int, int], hidden: int, side: int):
        super().__init__()
        self.shape, self.side, self.num_read = shape, side, side**2
        self.where_to_read, self.where_to_write = nn.Linear(hidden, 5), nn.Linear(hidden, 5)
        self.patch = nn.Linear(hidden, side**2)

    def read(self, image: Tensor, state: Tensor) -> Tensor:
        """`gamma F_y x F_x'`, as `[*, num_read]`."""
        down, across, intensity = self.filters(self.where_to_read(state))
        return intensity * (down @ image.squeeze(-3) @ across.mT).flatten(-2)

    def write(self, state: Tensor) -> Tensor:
        """`F_y' w F_x / gamma`, `[*, 1, H, W]`."""
        down, across, intensity = self.filters(self.where_to_write(state))
        patch = (self.patch(state) / intensity).unflatten(-1, (self.side, self.side))
        return (down.mT @ patch @ across).unsqueeze(-3)

    def filters(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F_y `[*, N, H]`, F_x `[*, N, W]` and gamma `[*, 1]`.

        From the two coordinates of the window's center, -1 to 1, and the logarithms of variance, stride and intensity;
        where all are zero, the window spans the image.
        """
        y, x, log_variance, log_stride, log_intensity = where.unbind(-1)
        longest = max(self.shape) - 1
        stride = log_stride.exp() * longest / max(self.side - 1, 1)
        down, across = (
            filter_bank((center + 1) * (size - 1) / 2, stride, log_variance.exp(), self.side, size)
            for center, size in zip((y, x), self.shape, strict=True)
        )
        return down, across, log_intensity.exp().unsqueeze(-1)


def filter_bank(center: Tensor, stride: Tensor, variance: Tensor, num: int, size: int) -> Tensor:
    """Gaussian filters over pixels 0 ... size - 1, each of sum one, a stride apart about a center: `[*, num, size]`."""
    offset = torch.arange(num, device=center.device) - (num - 1) / 2
    mean = center.unsqueeze(-1) + offset * stride.unsqueeze(-1)
    distance = (torch.arange(size, device=center.device) - mean.unsqueeze(-1)).square()
    return (-distance / (2 * variance[..., None, None])).softmax(-1)
