"""Names of the modules of existing Pyro code: those that `pyro.module` gave them."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae
from ppvae import Pair


def test_modules_keep_the_names_that_they_were_given():
    """But one that the pair has a use for itself, and parts of an object that is found whole."""
    encoder, decoder, taken = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(3, 3)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    def model(x):
        pyro.module("decoder", decoder)
        pyro.module("reconstruct", taken)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(taken(z)), 1.0).to_event(1), obs=x)

    pair, x = Pair.of(model, guide, example=torch.randn(6, 4)), torch.randn(20, 4)
    assert {name.rsplit(".", 1)[0] for name, _ in pair.named_parameters()} == {"encoder", "decoder", "module2"}
    run = ppvae.fit(pair, x, steps=2, optimizer=ppvae.ParameterGroups({"encoder": 3.0}), progress=False)
    assert run.steps == 2
