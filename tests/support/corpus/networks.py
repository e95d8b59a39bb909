"""Small networks that several programs share."""

from itertools import pairwise

import torch
from torch import nn


def perceptron(*sizes):
    """Linear layers with softplus between them."""
    layers = [nn.Linear(sizes[0], sizes[1])]
    for before, after in pairwise(sizes[1:]):
        layers += [nn.Softplus(), nn.Linear(before, after)]
    return nn.Sequential(*layers)


class NormalEncoder(nn.Module):
    """Location and scale of a normal distribution, as a tuple; wide, so that importance weights are bounded."""

    def __init__(self, inputs, outputs, hidden=6, scale=1.0):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.loc, self.spread = nn.Linear(hidden, outputs), nn.Linear(hidden, outputs)
        self.scale = scale

    def forward(self, x):
        h = torch.tanh(self.hidden(x))
        return self.loc(h), self.scale * (0.5 + nn.functional.softplus(self.spread(h)))


class Joined(nn.Module):
    """A network of several inputs, joined along the last dimension."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return self.network(torch.cat(inputs, -1))
