"""A class label as a modality: one of C names, a whole number."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.arguments import Size, checked
from ppvae.models.parts.indices import label_vectors
from ppvae.models.parts.likelihood import Likelihood
from ppvae.networks import output_bias


class ClassLabel(Likelihood):
    """`p(x | z) = softmax(f(z))_x`, for labels `0 ... C - 1`, `[B]`.

    Args:
        network: `[*, D] -> [*, C]`, the logits.

    Example:
        >>> ClassLabel(nn.Linear(2, 10))(torch.zeros(4, 2)).sample().dtype
        torch.int64
    """

    @checked
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.network(z))

    @checked
    def init_from(self, x: Tensor) -> None:
        """Sets the output bias to the log frequencies of the classes, with one added to each count."""
        bias = output_bias(self.network)
        count = x.long().bincount(minlength=len(bias)) + 1
        bias.data.copy_((count / count.sum()).log())


class OneHot(nn.Module):
    """Labels `[*]` as one-hot vectors `[*, C]`: what the encoder of a label begins with.

    Args:
        num_classes: C.

    Example:
        >>> OneHot(3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    rows: Tensor

    @checked
    def __init__(self, num_classes: Size):
        super().__init__()
        self.register_buffer("rows", torch.eye(num_classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return label_vectors(x.long(), len(self.rows), self.rows)
