"""Distributions of a label: a learned one, and one by a network."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Size, checked


class LabelPrior(nn.Module):
    """`p(y)`: probabilities that are learned; equal ones at the start.

    Equal ones stay so with `.requires_grad_(False)`.

    Args:
        num_classes: C.

    Example:
        >>> LabelPrior(4)().probs
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<SoftmaxBackward0>)
    """

    @checked
    def __init__(self, num_classes: Size):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_classes))

    def forward(self) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits)


class Classifier(nn.Module):
    """`Categorical(softmax f(h))`, a label's distribution given h.

    Args:
        network: `[*, H] -> [*, C]`, the logits.

    Example:
        >>> Classifier(nn.Linear(5, 3))(torch.zeros(4, 5)).probs.shape
        torch.Size([4, 3])
    """

    @checked
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.network(h))
