"""The smallest pairs that training can be tested on, and a silent `fit` for them."""

import functools
import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppvae import Pair
from ppvae.inference.training.fitting import fit


class Shift(Pair):
    """`z ~ N(shift, 1)`, `x | z ~ N(z, 1)`, with the exact guide: log p(x) = log N(x; shift, 2), whatever the draws."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + self.shift) / 2, 0.5**0.5))

    def log_prob(self, x):
        return dist.Normal(self.shift, 2**0.5).log_prob(x)


class Coins(Pair):
    """Bernoulli data without latents."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=self.logit), obs=x)

    def guide(self, x):
        pass


def bound(pair, batch, step=math.inf):
    """The simplest objective: one draw's log weight."""
    value = pair.log_weights(batch, 1).log_w.mean(0)
    return value, value.mean()


quiet = functools.partial(fit, objective=bound, progress=False)
X = torch.randn(50, generator=torch.Generator().manual_seed(1)) + 3


class Busy(Pair):
    """Batch norm and dropout: buffers that a step changes, and noise that is not a site's."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.decoder = nn.Linear(2, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
