"""Counts: single cells with library sizes, Poisson and binomial regressions with random effects of rows."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from support.corpus.closed_forms import log_integral, standard_normal
from support.corpus.entry import Program, runs
from support.corpus.networks import NormalEncoder, perceptron
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name)


def genes(num, features):
    return torch.poisson(3 * torch.rand(num, features))


class SingleCell(nn.Module):
    """Expression of cells: a latent of the cell, its library size, its batch as a covariate."""

    def __init__(self, genes=4, batches=2):
        super().__init__()
        self.batches = batches
        self.z_encoder = NormalEncoder(genes + batches, 2)
        self.l_encoder = NormalEncoder(genes, 1, scale=0.5)
        self.decoder = perceptron(2 + batches, 6, 2 * genes)
        self.log_theta = nn.Parameter(torch.ones(genes))

    def expression(self, z, batch):
        """The genes' shares of the library, and the logits of their dropping out."""
        one_hot = F.one_hot(batch, self.batches).to(z.dtype)
        scale, gate_logits = self.decoder(torch.cat([z, one_hot], dim=-1)).chunk(2, dim=-1)
        return F.softmax(scale, dim=-1), gate_logits

    def model(self, x, batch):
        pyro.module("scvi", self)
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            library = pyro.sample("l", dist.LogNormal(torch.tensor([2.0]), torch.tensor([0.5])).to_event(1))
            shares, gate_logits = self.expression(z, batch)
            logits = (library * shares + 1e-6).log() - self.log_theta
            counts = dist.ZeroInflatedNegativeBinomial(
                total_count=self.log_theta.exp(), logits=logits, gate_logits=gate_logits
            )
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, batch):
        pyro.module("scvi", self)
        with pyro.plate("cells", len(x)):
            log_x = torch.log1p(x)
            one_hot = F.one_hot(batch, self.batches).to(x.dtype)
            pyro.sample("z", dist.Normal(*self.z_encoder(torch.cat([log_x, one_hot], -1))).to_event(1))
            loc, scale = self.l_encoder(log_x)
            pyro.sample("l", dist.LogNormal(2.0 + 0.3 * loc, scale).to_event(1))


@runs("rows")
def single_cells_with_latent_library_sizes():
    scvi, data = SingleCell(), (genes(4, 4), torch.tensor([0, 1, 1, 0]))
    return Program(scvi.model, scvi.guide, data, data)


@runs("leading")
def single_cells_with_observed_library_sizes():
    """A linear decoder: the library's size is the sum of a cell's counts, an argument."""
    decoder, encoder, x = nn.Linear(1, 4), NormalEncoder(4, 1), genes(4, 4)

    def likelihood(z, library):
        mean = library * F.softmax(decoder(z), dim=-1)
        theta = pyro.param("theta", torch.full((4,), 3.0), constraint=constraints.positive)
        return dist.NegativeBinomial(total_count=theta, logits=mean.log() - theta.log())

    def model(x, library):
        pyro.module("decoder", decoder)
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", likelihood(z, library).to_event(1), obs=x)

    def guide(x, library):
        pyro.module("encoder", encoder)
        with pyro.plate("cells", len(x)):
            pyro.sample("z", dist.Normal(*encoder(torch.log1p(x))).to_event(1))

    def exact(data):
        def log_joint(z):
            terms = [likelihood(z, size).log_prob(row).sum(-1) for row, size in zip(*data, strict=True)]
            return standard_normal(z)[:, None] + torch.stack(terms, -1)

        with torch.no_grad(), pyro.get_param_store().scope():
            return log_integral(log_joint, -6.0, 6.0, 400)

    data = x, x.sum(-1, keepdim=True)
    return Program(model, guide, data, data, exact)


@runs("leading")
def gamma_poisson_rates():
    """The marginal is a negative binomial."""

    def model(x):
        shape = pyro.param("shape", torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(shape, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(1.5 + x, 1.3))

    def exact(x):
        return dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 1.5)).log_prob(x)

    x = torch.tensor([0.0, 3.0, 5.0, 1.0])
    return Program(model, guide, x, x, exact)


@runs("leading")
def poisson_regression_with_random_effects():
    """Covariates of each row, an intercept of each row."""
    encoder = nn.Linear(2, 1)

    def model(covariates, y):
        beta = pyro.param("beta", torch.tensor([0.5, -0.3]))
        tau = pyro.param("tau", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("rows", len(y)):
            intercept = pyro.sample("intercept", dist.Normal(0.0, tau))
            rate = (covariates @ beta + intercept).exp()
            pyro.sample("y", dist.Poisson(rate.unsqueeze(-1) * torch.ones(2)).to_event(1), obs=y)

    def guide(covariates, y):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(y)):
            pyro.sample("intercept", dist.Normal(torch.tanh(encoder(y)).squeeze(-1), 0.7))

    def exact(data):
        def log_joint(z):
            rate = (data[0] @ torch.tensor([0.5, -0.3]) + 0.8 * z).exp()
            log_y = torch.stack([dist.Poisson(rate).log_prob(data[1][:, i]) for i in range(2)]).sum(0)
            return standard_normal(z)[:, None] + log_y

        return log_integral(log_joint, -6.0, 6.0, 400)

    data = torch.randn(5, 2), torch.poisson(torch.ones(5, 2))
    return Program(model, guide, data, data, exact)


@runs("leading")
def response_theory_with_local_ability():
    """Students' abilities are latents, items' difficulties parameters; a mask says which items were seen."""
    difficulty, slope = torch.randn(4), torch.rand(4) + 0.5
    network = NormalEncoder(4, 1)

    def model(responses, seen):
        b = pyro.param("difficulty", difficulty)
        a = pyro.param("discrimination", slope, constraint=constraints.positive)
        with pyro.plate("students", responses.shape[0]):
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
            logits = a * (ability.unsqueeze(-1) - b)
            pyro.sample("responses", dist.Bernoulli(logits=logits).mask(seen).to_event(1), obs=responses)

    def guide(responses, seen):
        pyro.module("network", network)
        with pyro.plate("students", responses.shape[0]):
            loc, scale = network(torch.where(seen, responses, 0.5 * torch.ones_like(responses)))
            pyro.sample("ability", dist.Normal(loc.squeeze(-1), scale.squeeze(-1)))

    def exact(data):
        def log_joint(z):
            items = dist.Bernoulli(logits=slope * (z.unsqueeze(-1) - difficulty))
            return standard_normal(z)[:, None] + (items.log_prob(data[0]) * data[1]).sum(-1)

        return log_integral(log_joint, -6.0, 6.0, 400)

    data = torch.bernoulli(torch.full((5, 4), 0.5)), torch.rand(5, 4) < 0.7
    return Program(model, guide, data, data, exact)


@runs("leading")
def occupancy_of_sites():
    """A site is occupied or not, which is summed out; visits see an animal only where one is."""

    def model(x):
        psi = pyro.param("psi", torch.tensor(0.6), constraint=constraints.unit_interval)
        p = pyro.param("p", torch.tensor(0.4), constraint=constraints.unit_interval)
        with pyro.plate("sites", len(x)):
            occupied = pyro.sample("occupied", dist.Bernoulli(psi), infer={"enumerate": "parallel"})
            visits = (p * occupied).unsqueeze(-1) * torch.ones(3)
            pyro.sample("x", dist.Bernoulli(visits).to_event(1), obs=x)

    def guide(x):
        pass

    def exact(x):
        there = 0.6 * dist.Bernoulli(0.4).log_prob(x).sum(-1).exp()
        return (there + 0.4 * (x.sum(-1) == 0)).log()

    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    return Program(model, guide, x, x, exact, exact)
