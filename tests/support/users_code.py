"""A pair whose code may do more than compute, and runs of it that must be the same to the last bit."""

import sys

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import ppvae
from ppvae.inference.training import step_programs
from ppvae.inference.training.fitting import fit

DATA = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))


class Linear(ppvae.Pair):
    """A linear VAE whose encoder and mean may do more than they seem to."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def more(self, x):
        """Added to the mean."""
        return 0.0

    def encoded(self, x):
        return self.encoder(x)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.decoder.weight.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + self.more(x), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, scale = self.encoded(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(scale) + 1e-3).to_event(1))


def recorded_soon(monkeypatch):
    """Records after three steps instead of a hundred; what is recorded, in a list."""
    steps = []
    whole = step_programs.CompiledStep

    def step(*args):
        steps.append(whole(*args))
        return steps[-1]

    monkeypatch.setattr(sys.modules["ppvae.inference.training.fitting"], "RECORD_AFTER", 3)
    monkeypatch.setattr(step_programs, "CompiledStep", step)
    return steps


def trained(make, compile, objective=None, transform=None, **settings):
    """Twenty steps on data of two batches and a half: the pair's tensors and the bounds."""
    torch.manual_seed(1)
    pair = make()
    objective = objective(pair) if hasattr(objective, "of_pair") else objective
    objective = objective() if isinstance(objective, type) else objective
    settings = {"steps": 20, "batch_size": 16, "lr": 1e-2, "progress": False, "compile": compile} | settings
    transform = transform and transform.__get__(pair)
    found = fit(pair, DATA.to(pair.decoder.weight.dtype), objective, transform=transform, **settings)
    return {**pair.state_dict(), **dict(pair.named_parameters())}, found.history["bound_per_step"].tolist()


def assert_equal(one, other):
    assert one[1] == other[1]
    for name, t in one[0].items():
        assert torch.equal(t, other[0][name]), name
