"""Networks that mix along dim 1, the features of a batch of rows: with particles in front, dim 1 is the rows."""

import pyro
import pyro.distributions as dist
import torch
from support.corpus.closed_forms import latent_normal
from support.corpus.entry import Program, runs
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


def decoded_by(decode):
    """A program with two latents, whose features `decode` makes of them.

    The rows differ and the encoder tells them apart, so that to mix them shows.
    """
    z = torch.tensor([[1.5, -1.0], [-1.5, 0.5], [1.0, 1.0], [-0.5, -1.0]])
    x = decode(z) + 0.4 * torch.randn(4, 3)
    encoder = nn.Linear(3, 2)
    solution = torch.linalg.lstsq(F.pad(x, (0, 1), value=1.0), z).solution
    encoder.weight.data, encoder.bias.data = solution[:3].T.contiguous(), solution[3]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.2).to_event(1))

    return Program(model, guide, x, x, latent_normal(lambda z: dist.Normal(decode(z), 0.7), 2))


@runs("rows")
def softmax_over_features():
    topics = torch.tensor([[2.0, -1.0, 0.5], [-1.0, 1.5, 1.0]])
    return decoded_by(lambda z: torch.softmax(z, dim=1) @ topics)


@runs("rows")
def normalized_features():
    directions = torch.tensor([[1.0, 0.5, -0.5], [-0.5, 1.0, 0.8]])
    return decoded_by(lambda z: 4 * F.normalize(z @ directions + torch.tensor([2.0, 0.0, 0.0])))


@runs("rows")
def cumulative_features():
    steps = torch.tensor([[0.8, 0.2, -0.4], [-0.3, 0.7, 0.3]])
    return decoded_by(lambda z: (z @ steps).cumsum(1))


@runs("rows")
def norm_of_features():
    spread = torch.tensor([[0.8, 0.2, -0.4], [-0.3, 0.7, 0.3]])
    return decoded_by(lambda z: z @ spread + z.norm(dim=1).unsqueeze(1))


@runs("rows")
def centered_features():
    spread = torch.tensor([[1.0, 0.2, -0.8], [-0.3, 1.0, 0.3]])

    def decode(z):
        h = z @ spread + torch.tensor([3.0, 0.0, -1.0])
        return h - h.mean(1, keepdim=True)

    return decoded_by(decode)


@runs("rows")
def flipped_features():
    spread = torch.tensor([[1.0, 0.2, -0.8], [-0.3, 1.0, 0.3]])
    return decoded_by(lambda z: (z @ spread).flip(1))
