"""Parameters of each row: plates of the whole data with a batch's places in it, and plates that draw a subsample."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from support.corpus.closed_forms import linear_elbo, linear_log_evidence, linear_posterior
from support.corpus.entry import Program, refused, runs

WEIGHT = [[1.0, 0.3], [-0.5, 0.8], [0.7, -1.0]]


def whole_data():
    """All rows, a batch of three of them with their places, and the starts of local parameters."""
    whole, index = torch.randn(6, 3), torch.tensor([4, 1, 2])
    locs = linear_posterior(whole, torch.tensor(WEIGHT), 0.0, 0.7).mean + 0.2
    return (whole, torch.arange(6)), (whole[index], index), locs, 0.5 + 0.2 * torch.rand(6, 2)


def linear_model(x, index):
    with pyro.plate("data", 6, subsample=index):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.tensor(WEIGHT).T, 0.7).to_event(1), obs=x)


def linear_program(guide, everything, batch, locs, scales):
    """The model with a guide whose parameters are `locs` and `scales`, one of each row."""

    def exact(data):
        return linear_log_evidence(data[0], torch.tensor(WEIGHT), 0.0, 0.7)

    def bound(data):
        x, index = data
        q = dist.MultivariateNormal(locs[index], scale_tril=torch.diag_embed(scales[index]))
        return linear_elbo(x, torch.tensor(WEIGHT), 0.0, 0.7, q)

    return Program(linear_model, guide, everything, batch, exact, bound)


@runs("leading")
def local_parameters_by_event_dim():
    """`pyro.param(..., event_dim=1)` within the plate is that of the plate's rows."""
    everything, batch, locs, scales = whole_data()

    def guide(x, index):
        with pyro.plate("data", 6, subsample=index):
            loc = pyro.param("loc", locs, event_dim=1)
            scale = pyro.param("scale", scales, constraint=constraints.positive, event_dim=1)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return linear_program(guide, everything, batch, locs, scales)._replace(repeatable=False)


@runs("leading")
def local_parameters_indexed_by_hand():
    """The plate says which rows it has."""
    everything, batch, locs, scales = whole_data()

    def guide(x, index):
        loc = pyro.param("loc", locs)
        scale = pyro.param("scale", scales, constraint=constraints.positive)
        with pyro.plate("data", 6, subsample=index) as rows:
            pyro.sample("z", dist.Normal(loc[rows], scale[rows]).to_event(1))

    return linear_program(guide, everything, batch, locs, scales)


@runs("leading")
def baseball_not_pooled():
    """A skill of each player, and a beta distribution of each; all players are one batch."""
    at_bats, hits = torch.tensor([10.0, 8.0, 12.0, 9.0]), torch.tensor([4.0, 1.0, 6.0, 3.0])
    alpha, beta = 1 + 0.8 * hits, 1 + 0.8 * (at_bats - hits)

    def model(at_bats, hits):
        with pyro.plate("players", len(at_bats)):
            skill = pyro.sample("skill", dist.Uniform(0.0, 1.0))
            pyro.sample("hits", dist.Binomial(at_bats, skill), obs=hits)

    def guide(at_bats, hits):
        with pyro.plate("players", len(at_bats)):
            a = pyro.param("alpha", alpha, constraint=constraints.positive)
            b = pyro.param("beta", beta, constraint=constraints.positive)
            pyro.sample("skill", dist.Beta(a, b))

    def exact(data):
        return -torch.log(data[0] + 1)

    return Program(model, guide, (at_bats, hits), (at_bats, hits), exact, repeatable=False)


def gaussian_program(model, guide):
    """A program of one latent and one datum of each row, with the exact log p(x)."""
    x = torch.randn(5)
    return Program(model, guide, x, x, lambda x: dist.Normal(0.0, 1.25**0.5).log_prob(x))


@runs("leading")
def plate_of_the_whole_data():
    """A batch of 60000 rows, whose plate scales it up: a row's log weight is that of the row alone."""

    def model(x):
        with pyro.plate("data", 60000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", 60000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(0.7 * x, 0.5))

    return gaussian_program(model, guide)


@runs("leading")
def plate_without_a_size():
    """The size is that of what is sampled in it."""

    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(0.7 * x, 0.5))

    return gaussian_program(model, guide)


def in_a_plate_of(subsample_size):
    """The same, with rows that the plate takes out of x."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            pyro.sample("z", dist.Normal(0.7 * x[rows], 0.5))

    return gaussian_program(model, guide)


def all_rows(program):
    """The plate without `subsample_size`: whoever measures chooses the rows."""
    return in_a_plate_of(None)


@refused("subsample_size", all_rows, "leading")
def plate_that_draws_a_subsample():
    """The model is given all rows and draws three of them, others at each call."""
    return in_a_plate_of(3)
