"""Discrete latents of rows: drawn by the guide, or summed out where only the model has them."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from support.corpus.closed_forms import log_integral
from support.corpus.entry import Program, refused, runs
from support.corpus.networks import perceptron
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)

PROBS = [0.2, 0.3, 0.5]
LOCS = [-2.0, 0.0, 3.0]


def component_terms(x, log_weights, locs, scales):
    """log p(x, c), `[N, components]`."""
    return log_weights + dist.Normal(locs, scales).log_prob(x.unsqueeze(-1))


def mixture_log_evidence(x):
    return component_terms(x, torch.tensor(PROBS).log(), torch.tensor(LOCS), 0.8).logsumexp(-1)


def mixture_model(x):
    weights = pyro.param("weights", torch.tensor(PROBS), constraint=constraints.simplex)
    locs = pyro.param("locs", torch.tensor(LOCS))
    with pyro.plate("data", len(x)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], 0.8), obs=x)


def no_guide(*args):
    pass


@runs("leading")
def gaussian_mixture_summed_out():
    x = 2 * torch.randn(5)
    return Program(config_enumerate(mixture_model), no_guide, x, x, mixture_log_evidence, mixture_log_evidence)


@runs("leading")
def gaussian_mixture_with_a_guide():
    """Responsibilities by a network."""
    network, x = nn.Linear(1, 3), 2 * torch.randn(5)

    def guide(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            pyro.sample("assignment", dist.Categorical(logits=network(x.unsqueeze(-1))))

    def bound(x):
        log_q = network(x.unsqueeze(-1)).log_softmax(-1)
        terms = component_terms(x, torch.tensor(PROBS).log(), torch.tensor(LOCS), 0.8)
        return (log_q.exp() * (terms - log_q)).sum(-1)

    return Program(mixture_model, guide, x, x, mixture_log_evidence, bound)


class DensityNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = perceptron(2, 5, 9)

    def forward(self, x):
        logits, locs, log_scales = self.net(x).chunk(3, -1)
        return logits, 2 * locs, log_scales.exp()

    def log_evidence(self, data):
        x, y = data
        logits, locs, scales = self(x)
        return component_terms(y, logits.log_softmax(-1), locs, scales).logsumexp(-1)


def mixture_density(take):
    """y given x, a mixture whose components `take(values, component)` picks from what the network says."""
    network, data = DensityNetwork(), (torch.randn(5, 2), torch.randn(5))

    def model(x, y):
        pyro.module("network", network)
        logits, locs, scales = network(x)
        with pyro.plate("data", len(x)):
            component = pyro.sample("component", dist.Categorical(logits=logits))
            pyro.sample("y", dist.Normal(take(locs, component), take(scales, component)), obs=y)

    return Program(model, no_guide, data, data, network.log_evidence, network.log_evidence)


def gathered(values, component):
    return values.gather(-1, component.unsqueeze(-1)).squeeze(-1)


@runs("leading")
def mixture_density_network_with_vindex():
    return mixture_density(lambda values, component: Vindex(values)[..., component])


@runs("rows")
def mixture_density_network_with_gather():
    """`gather` wants an index for each row; the guide draws one, and none can be enumerated."""
    program, recognition = mixture_density(gathered), nn.Linear(3, 3)

    def guide(x, y):
        pyro.module("recognition", recognition)
        with pyro.plate("data", len(x)):
            logits = recognition(torch.cat([x, y.unsqueeze(-1)], -1))
            pyro.sample("component", dist.Categorical(logits=logits))

    def bound(data):
        x, y = data
        log_q = recognition(torch.cat([x, y.unsqueeze(-1)], -1)).log_softmax(-1)
        network = program.log_evidence.__self__
        logits, locs, scales = network(x)
        terms = component_terms(y, logits.log_softmax(-1), locs, scales)
        return (log_q.exp() * (terms - log_q)).sum(-1)

    return program._replace(guide=guide, elbo=bound)


def indexed_with_vindex(program):
    return mixture_density_network_with_vindex()


@refused("Vindex", indexed_with_vindex, "leading")
def mixture_density_network_not_enumerable():
    """The same component with no guide: it must be summed out, and `gather` cannot take all values at once."""
    return mixture_density(gathered)


@runs("leading")
def sigmoid_belief_network():
    """Three binary codes as one event, drawn by the guide; Pyro enumerates no such event."""
    weight, network, x = torch.randn(3, 4), nn.Linear(4, 3), torch.bernoulli(torch.full((4, 4), 0.5))
    codes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)

    def model(x):
        w = pyro.param("w", weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.5, 0.6])).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=network(x)).to_event(1))

    def terms(x):
        prior = dist.Bernoulli(torch.tensor([0.3, 0.5, 0.6])).log_prob(codes).sum(-1)
        return prior + dist.Bernoulli(logits=codes @ weight).log_prob(x[:, None]).sum(-1)

    def bound(x):
        log_q = dist.Bernoulli(logits=network(x)[:, None]).log_prob(codes).sum(-1)
        return (log_q.exp() * (terms(x) - log_q)).sum(-1)

    return Program(model, guide, x, x, lambda x: terms(x).logsumexp(-1), bound)


@runs("rows")
def discrete_codes_looked_up():
    """Two codes of a book, looked up by one-hot products over `.view(len(codes), ...)`."""
    book, decoder, network = torch.randn(3, 2), nn.Linear(4, 4), nn.Linear(4, 6)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))

    def decode(codes):
        return decoder((F.one_hot(codes, 3).to(book) @ book).view(len(codes), 4))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            codes = pyro.sample("codes", dist.Categorical(torch.ones(2, 3) / 3).to_event(1))
            pyro.sample("x", dist.Normal(decode(codes), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            logits = network(x).view(len(x), 2, 3)
            pyro.sample("codes", dist.Categorical(logits=logits).to_event(1))

    def terms(x):
        return dist.Normal(decode(every), 1.0).log_prob(x[:, None]).sum(-1) - torch.tensor(9.0).log()

    def bound(x):
        log_q = network(x).view(len(x), 2, 3).log_softmax(-1)
        log_q = log_q[:, 0, every[:, 0]] + log_q[:, 1, every[:, 1]]
        return (log_q.exp() * (terms(x) - log_q)).sum(-1)

    x = torch.randn(4, 4)
    return Program(model, guide, x, x, lambda x: terms(x).logsumexp(-1), bound)


def directions_program():
    """A latent angle, seen through its cosine and sine."""

    def model(x):
        with pyro.plate("data", len(x)):
            angle = pyro.sample("angle", dist.VonMises(torch.tensor(1.0), torch.tensor(1.5)))
            seen = torch.stack([angle.cos(), angle.sin()], -1)
            pyro.sample("x", dist.Normal(seen, 0.7).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.VonMises(torch.atan2(x[:, 1], x[:, 0]), 2.0))

    def exact(x):
        def log_joint(angle):
            seen = torch.cat([angle.cos(), angle.sin()], -1)
            prior = dist.VonMises(torch.tensor(1.0), torch.tensor(1.5)).log_prob(angle)
            return prior + torch.stack([dist.Normal(seen, 0.7).log_prob(row).sum(-1) for row in x], -1)

        return log_integral(log_joint, -torch.pi, torch.pi, 400)

    x = torch.randn(4, 2)
    return Program(model, guide, x, x, exact)


@runs("leading")
def directions_on_a_circle():
    return directions_program()


def guide_on_the_circle(program):
    return program._replace(guide=directions_program().guide)


@refused("VonMises|circle", guide_on_the_circle, "leading")
def directions_with_a_guide_on_the_line():
    """The normal guide has the same angle many times over: its weights say more than p(x)."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.Normal(torch.atan2(x[:, 1], x[:, 0]), 2.0))

    return directions_program()._replace(guide=guide)
