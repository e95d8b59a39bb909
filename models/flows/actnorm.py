"""Activation normalization: a scale and a shift for each feature or channel, initialized from data."""

import torch
from torch import Tensor, nn

from ppvae.models.flows.transforms import Bijection


class ActNorm(Bijection):
    """`x = exp(log_scale) z + loc`, for vectors or, with one number for each channel, for images.

    Source: Kingma & Dhariwal 2018 (arXiv:1807.03039).

    Args:
        shape: of loc and log_scale: `D` for vectors, `C, 1, 1` for images.

    Example:
        >>> norm = ActNorm(2)
        >>> norm.init_from(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]))
        >>> norm.loc
        Parameter containing:
        tensor([3., 2.], requires_grad=True)
    """

    def __init__(self, *shape: int):
        super().__init__(event_dim=len(shape))
        self.loc = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def push(self, z: Tensor) -> Tensor:
        return self.log_scale.exp() * z + self.loc

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, event = x.shape[: -self.loc.dim()], x.shape[-self.loc.dim() :]
        log_det = -self.log_scale.sum() * (event.numel() // self.loc.numel())
        return (x - self.loc) * (-self.log_scale).exp(), log_det.expand(batch)

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        """Sets loc and scale so that x comes from z of mean 0 and variance 1 in each feature or channel."""
        shared = [0, *(dim for dim, size in enumerate(self.loc.shape, start=1) if size == 1)]
        std, mean = torch.std_mean(x, shared, keepdim=True, correction=0)
        self.loc.copy_(mean[0])
        self.log_scale.copy_(std[0].clamp(min=1e-4).log())  # a channel may be constant
