"""Every public function checks the pair that it is given: here one whose guide looks at the other rows of its batch."""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae import pictures

SIDE = 2
QUIET = {"seed": 0, "progress": False}


class Mixing(ppvae.Pair):
    """Images of four pixels; the guide subtracts the batch's mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, SIDE**2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ self.weight).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - x.mean(0)) @ self.weight.T, 1.0).to_event(1))


def picture(draw):
    return lambda pair, x: draw(plt.figure().subplots(), pair, x, (SIDE, SIDE))


ENTRIES = {
    "check": lambda pair, x: pair.check(x),
    "log_weights": lambda pair, x: pair.log_weights(x),
    "latents": lambda pair, x: pair.latents(x),
    "encode": lambda pair, x: pair.encode(x),
    "reconstruct": lambda pair, x: pair.reconstruct(x),
    "fit": lambda pair, x: ppvae.fit(pair, x, steps=1, progress=False),
    "Trainer": lambda pair, x: ppvae.Trainer(pair).step(x),
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 5, **QUIET),
    "log_evidence": lambda pair, x: ppvae.log_evidence(pair, x, "iwae", 5, **QUIET),
    "annealed": lambda pair, x: ppvae.log_evidence(pair, x, "ais", annealing=ppvae.AIS(2, 3), **QUIET),
    "bound_curve": lambda pair, x: ppvae.bound_curve(pair, x, [2, 4], **QUIET),
    "elbo_terms": lambda pair, x: ppvae.elbo_terms(pair, x, 5, **QUIET),
    "gap": lambda pair, x: ppvae.gap(pair, x, "quick", **QUIET),
    "gradient_statistics": lambda pair, x: ppvae.gradient_statistics(pair, x, [ppvae.ELBO()], [2], 16, progress=False),
    "to_arviz": lambda pair, x: ppvae.to_arviz(pair, x, num_samples=3, **QUIET),
    "to_arviz, refined": lambda pair, x: ppvae.to_arviz(pair, x, posterior="refined", num_samples=3, **QUIET),
    "reconstructions": picture(pictures.reconstructions),
    "traversals": picture(pictures.traversals),
    "resampled_layers": picture(pictures.resampled_layers),
    "aggregated_posterior": lambda pair, x: pictures.aggregated_posterior(plt.figure().subplots(1, 2), pair, x),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_it_refuses_what_fit_refuses(name):
    pair, x = Mixing(), torch.rand(6, SIDE**2).round()
    before = pair.weight.detach().clone()
    with pytest.raises(ppvae.ContractError, match=r"guide site 'z'.*depends on the other rows"):
        ENTRIES[name](pair, x)
    assert torch.equal(pair.weight, before)
    plt.close("all")
