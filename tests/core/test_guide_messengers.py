"""Pyro's guides that are handlers: they run the model, and draw its latents from other distributions."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoHierarchicalNormalMessenger, AutoNormalMessenger, AutoRegressiveMessenger
from pyro.poutine.guide import GuideMessenger
from torch.nn.functional import normalize

import ppvae
from ppvae import Pair

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore:.*run by rows")]


def leading(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + u.sum(-1), 1.0), obs=x)


def by_rows(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + normalize(u, dim=1).sum(-1), 1.0), obs=x)


class Amortized(GuideMessenger):
    """Of each latent by the data and the latents before it."""

    def get_posterior(self, name, prior):
        (x,), _ = self.args_kwargs
        if name == "z":
            return dist.LogNormal(x / 3, 0.5)
        loc = torch.stack([x / 2, self.upstream_value("z").log()], -1)
        return dist.Normal(loc, 0.8).to_event(1)


GUIDES = [Amortized, AutoNormalMessenger, AutoHierarchicalNormalMessenger, AutoRegressiveMessenger]


@pytest.mark.parametrize("model", [leading, by_rows])
@pytest.mark.parametrize("guide", GUIDES)
def test_weights_are_those_of_the_traces_that_pyro_makes(guide, model):
    x, made = torch.randn(5), guide(model)
    pair = Pair.of(model, made, x)
    # What follows a latent has more dimensions than the prior to which Pyro expands it, where particles lead.
    assert pair.particles == ("leading" if model is leading and guide is not Amortized else "rows")
    weights = pair.log_weights(x, 4)
    for k in range(4):
        drawn = poutine.trace(made).get_trace(x)
        for name, z in weights.latents.items():
            drawn.nodes[name]["value"] = z[k]
        with poutine.replay(trace=drawn):
            made(x)
        terms = []
        for trace in made.get_traces():
            trace.compute_log_prob()
            sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
            terms.append(sum(site["log_prob"] for site in sites))
        torch.testing.assert_close(weights.log_w[k], terms[0] - terms[1])


def test_it_is_trained():
    x = torch.randn(5) + 2
    pair = Pair.of(leading, AutoNormalMessenger(leading), x)
    before = ppvae.elbo(pair, x, 500, seed=0, progress=False)
    ppvae.fit(pair, x, steps=200, lr=0.03, progress=False)
    after = ppvae.elbo(pair, x, 500, seed=0, progress=False)
    assert after.estimate.mean() > before.estimate.mean() + 0.1
