"""Parameters for each data point, by a network of the data: an encoder in addition to a guide's own."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppvae.batches import Batch, numbers
from ppvae.networks import hidden_layers

HIDDEN = (256, 256)


class OfData(nn.Module):
    """A network from all numbers of a data point to parameters by name, `[B, *shape]`; all are zero before training.

    Args:
        batch: data points, by which its inputs are standardized.
        shapes: of the parameters.
        like: of their type.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, batch: Batch, shapes: Mapping[str, torch.Size], like: Tensor):
        super().__init__()
        self._shapes = dict(shapes)
        flat = numbers(batch).to(like)
        scale = flat.std(0, correction=0)
        self.register_buffer("loc", flat.mean(0))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))
        num_out = sum(math.prod(shape) for shape in shapes.values())
        self.hidden = nn.Sequential(*hidden_layers(flat.shape[1], HIDDEN)).to(like)
        self.last = nn.Linear(HIDDEN[-1], num_out).to(like)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        found = self.last(self.hidden((numbers(batch).to(self.loc) - self.loc) / self.scale))
        pieces = found.split([math.prod(shape) for shape in self._shapes.values()], -1)
        return {
            name: piece.reshape(-1, *shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }
