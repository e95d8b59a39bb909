"""Automatic guides of local latents: a location and a scale of each row, which cannot be those of other rows."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from support.corpus.closed_forms import linear_elbo, linear_log_evidence, linear_posterior
from support.corpus.entry import Program, refused, runs

WEIGHT = [[1.0, 0.3], [-0.5, 0.8], [0.7, -1.0]]


def linear_model(x):
    """Two latents of each row, seen linearly with noise."""
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.tensor(WEIGHT).T, scale).to_event(1), obs=x)


def near_posterior(x):
    """Locations a little off those of p(z | x)."""
    return linear_posterior(x, torch.tensor(WEIGHT), 0.0, 0.7).mean + 0.2


def linear_exact(x):
    return linear_log_evidence(x, torch.tensor(WEIGHT), 0.0, 0.7)


def normal_guide(model, x):
    """An AutoNormal that has seen the rows, near the posterior."""
    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"z": near_posterior(x)}), init_scale=0.6)
    with pyro.get_param_store().scope():
        guide(x)
    return guide


def linear_program():
    x = torch.randn(4, 3)

    def bound(x):
        tril = torch.diag_embed(torch.full((len(x), 2), 0.6))
        return linear_elbo(
            x, torch.tensor(WEIGHT), 0.0, 0.7, dist.MultivariateNormal(near_posterior(x), scale_tril=tril)
        )

    return Program(linear_model, normal_guide(linear_model, x), x, x, linear_exact, bound, repeatable=False)


@runs("leading")
def auto_normal():
    return linear_program()


@runs("leading")
def auto_normal_with_created_plates():
    """Plates by a function that model and guide share; a batch is rows and their places in the whole."""
    whole = torch.randn(6, 3)

    def plates(x, index):
        return pyro.plate("data", 6, subsample=index, dim=-1)

    def model(x, index):
        with plates(x, index):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.tensor(WEIGHT).T, 0.7).to_event(1), obs=x)

    start = init_to_value(values={"z": near_posterior(whole)})
    guide = AutoNormal(model, init_loc_fn=start, init_scale=0.6, create_plates=plates)
    everything = whole, torch.arange(6)
    with pyro.get_param_store().scope():
        guide(*everything)
    index = torch.tensor([4, 1, 2])

    def bound(data):
        q = dist.MultivariateNormal(near_posterior(data[0]), scale_tril=0.6 * torch.eye(2).expand(3, 2, 2))
        return linear_elbo(data[0], torch.tensor(WEIGHT), 0.0, 0.7, q)

    data = whole[index], index
    return Program(model, guide, everything, data, lambda data: linear_exact(data[0]), bound, repeatable=False)


def chain_model(x):
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        rate = pyro.sample("rate", dist.LogNormal(top, 0.5))
        pyro.sample("x", dist.Exponential(rate), obs=x)


@runs("leading")
def auto_guide_list_of_normals():
    """A part for each latent, one of them positive, in plates that a function makes."""
    x = torch.rand(4) + 0.2
    guide = AutoGuideList(chain_model, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
    guide.append(AutoNormal(poutine.block(chain_model, expose=["top"]), init_scale=0.8))
    guide.append(AutoNormal(poutine.block(chain_model, expose=["rate"]), init_scale=0.5))
    with pyro.get_param_store().scope():
        guide(x)
    return Program(chain_model, guide, x, x, repeatable=False)


@runs("leading")
def auto_guide_list_with_a_function():
    """An automatic part, and one that its author wrote as a function of the data."""
    x = torch.rand(4) + 0.2

    def by_hand(x):
        with guide.plates["data"]:
            pyro.sample("rate", dist.LogNormal(-0.5 * torch.log(x), 0.6))

    guide = AutoGuideList(chain_model)
    guide.append(AutoNormal(poutine.block(chain_model, expose=["top"]), init_scale=0.8))
    guide.append(by_hand)
    with pyro.get_param_store().scope():
        guide(x)
    return Program(chain_model, guide, x, x, repeatable=False)


def scale_mixture(x):
    with pyro.plate("data", len(x)):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.7, 0.3])))
        z = pyro.sample("z", dist.Normal(torch.tensor([-1.0, 2.0])[kind], 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@runs("leading")
def auto_normal_with_labels_summed_out():
    """The guide is made of the model without its discrete latent, as for `TraceEnum_ELBO`."""
    x = torch.randn(4)
    start = init_to_value(values={"z": 0.8 * x})
    guide = AutoNormal(poutine.block(scale_mixture, hide=["kind"]), init_loc_fn=start, init_scale=0.5)
    with pyro.get_param_store().scope():
        guide(x)

    def exact(x):
        terms = dist.Normal(torch.tensor([-1.0, 2.0]), 1.25**0.5).log_prob(x[:, None])
        return (torch.tensor([0.7, 0.3]).log() + terms).logsumexp(-1)

    return Program(config_enumerate(scale_mixture), guide, x, x, exact, repeatable=False)


def guide_of_each_row(program):
    """AutoNormal in place of what is refused."""
    return linear_program()


def with_guide(make_guide):
    """The linear model with another automatic guide, set up on its rows."""
    program = linear_program()
    guide = make_guide(linear_model)
    with pyro.get_param_store().scope():
        guide(program.data)
    return program._replace(guide=guide, elbo=None)


@refused("(?i)delta.*(density|evidence)", guide_of_each_row, "leading")
def auto_delta():
    """Maximum a posteriori: to be trained, but a point has no density to weigh."""
    return with_guide(AutoDelta)


@refused("AutoNormal", guide_of_each_row, "leading")
def auto_diagonal_normal():
    """One vector for the latents of all rows."""
    return with_guide(AutoDiagonalNormal)


@refused("AutoNormal", guide_of_each_row, "leading")
def auto_multivariate_normal():
    return with_guide(AutoMultivariateNormal)


@refused("AutoNormal", guide_of_each_row, "leading")
def auto_low_rank_multivariate_normal():
    return with_guide(AutoLowRankMultivariateNormal)


@refused("AutoNormal", guide_of_each_row, "leading")
def auto_inverse_autoregressive_flow():
    return with_guide(lambda model: AutoIAFNormal(model, hidden_dim=[8]))


@refused("AutoNormal", guide_of_each_row, "leading")
def auto_laplace_approximation():
    return with_guide(AutoLaplaceApproximation)
