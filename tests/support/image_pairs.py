"""A pair over images of which every latent is known, and what is read off a picture of them."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppvae import Pair

SHAPE = (2, 3)


def tiles(ax, columns):
    """The images of a mosaic, `[rows, columns, H * W]`."""
    mosaic = 1 - np.asarray(ax.images[0].get_array())
    height, width = SHAPE[0] + 2, SHAPE[1] + 2
    framed = mosaic.reshape(-1, height, columns, width).transpose(0, 2, 1, 3)
    return torch.tensor(framed[:, :, 1:-1, 1:-1].reshape(len(framed), columns, -1))


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


class Chain(Pair):
    """`a -> b -> x`, and c beside them: `x = sigmoid([a, a, b, b, c, c])`, the guide certain of them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.example = torch.zeros(1, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.5, 2.0 * self.scale).expand([1]).to_event(1))
            b = pyro.sample("b", dist.Normal(2 * a, 0.1).to_event(1))
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            logits = torch.cat([a, a, b, b, c.unsqueeze(-1), c.unsqueeze(-1)], -1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x[:, :1], 1e-6).to_event(1))
            pyro.sample("b", dist.Normal(0.3, 1e-6).expand([len(x), 1]).to_event(1))
            pyro.sample("c", dist.Normal(-0.7, 1e-6))
