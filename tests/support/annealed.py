"""A pair with arguments that are no data."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae


class Annealed(ppvae.Pair):
    """`z ~ N(0, 1)`, `x ~ N(z, 1)`, with a factor on the log likelihood and a choice that are no data."""

    def __init__(self):
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.8))

    def model(self, x, beta=1.0, kind="normal", nothing=None):
        assert kind == "normal"
        assert nothing is None
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(beta * z, 1.0), obs=x)

    def guide(self, x, beta=1.0, kind="normal", nothing=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc * beta * x, self.scale))


class Watched(Annealed):
    """Keeps the factors that its model was given."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def model(self, x, beta=1.0, kind="normal", nothing=None):
        self.seen.add(beta)
        super().model(x, beta, kind, nothing)


def annealed(beta, num=12):
    return {"x": torch.linspace(-1.0, 2.0, num), "beta": beta, "kind": "normal", "nothing": None}
