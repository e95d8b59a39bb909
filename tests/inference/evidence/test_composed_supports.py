"""Latents made by several transforms, whose support torch takes for all that the last of them can give."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, ComposeTransform, SigmoidTransform
from support.functions import Functions
from torch.distributions.transforms import IndependentTransform

import ppvae
from ppvae import AIS, ContractError
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.refinement import refine
from ppvae.inference.ledger.richer_families import richer
from ppvae.inference.runtime.measuring import measuring

pytestmark = pytest.mark.usefixtures("float64")
X = torch.tensor([4.0, 5.0, -2.0, 1.0, 6.9], dtype=torch.float64)
WIDTH = 3.0
METHODS = {"ais": AIS(num_temperatures=100), "ais from prior": AIS(num_temperatures=100, start="prior")}


def logistic(like):
    """Of heavy tails: torch has a density of it at any number beyond the ends, as its sigmoid's inverse has a value."""
    base = dist.Uniform(torch.zeros_like(like), torch.ones_like(like))
    return dist.TransformedDistribution(base, [SigmoidTransform().inv])


def steps(x):
    """From the line to `(x / 2, x / 2 + 3)`."""
    return [SigmoidTransform(), AffineTransform(x / 2, WIDTH)]


def mixture(x):
    components = dist.TransformedDistribution(logistic(torch.zeros(len(x), 2)), steps(x[:, None]))
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2)), components)


FORMS = {
    "in steps": lambda x: dist.TransformedDistribution(logistic(x), steps(x)),
    "composed": lambda x: dist.TransformedDistribution(logistic(x), ComposeTransform(steps(x))),
    "one by one": lambda x: dist.TransformedDistribution(FORMS["in steps"](0 * x), [AffineTransform(x / 2, 1.0)]),
    "as an event": lambda x: dist.TransformedDistribution(
        logistic(x[:, None]), [IndependentTransform(ComposeTransform(steps(x[:, None])), 1)]
    ),
    "an event of": lambda x: dist.TransformedDistribution(logistic(x[:, None]), steps(x[:, None])).to_event(1),
}
"""The uniform distribution from x / 2 to x / 2 + 3, in various forms."""


def pair(prior, flat=False):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            mean = z.reshape(x.shape) if flat else z.squeeze(-1) if prior(x).event_dim else z
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        num = prior(x).event_dim
        ends = x.reshape(len(x), *[1] * num)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(0 * ends, 2.0), steps(ends)).to_event(num))

    return Functions(model, guide)


def exact(x):
    normal = dist.Normal(torch.tensor(0.0), 1.0)
    return ((normal.cdf(x / 2) - normal.cdf(x / 2 - WIDTH)) / WIDTH).log()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*is run by rows")
def test_annealing_stays_inside(form, flat, method):
    chains = pair(FORMS[form], flat)
    found = ppvae.log_evidence(chains, X, method, annealing=METHODS[method], seed=0, progress=False)
    assert found.reliable.all()
    assert ((found.estimate - exact(X)).abs() < 4.5 * found.std_error + 1e-3).all()
    assert chains.particles == ("rows" if flat else "leading")


def test_a_mixture_of_such_is_refused_where_its_ends_may_differ():
    with pytest.raises(ContractError, match=r"site 'z': found MixtureSameFamily, whose support has no bijection"):
        ppvae.log_evidence(pair(mixture), X, "ais from prior", seed=0, progress=False)
    found = ppvae.log_evidence(pair(mixture), X, seed=0, progress=False)
    assert ((found.estimate - exact(X)).abs() < 4.5 * found.std_error + 1e-3).all()


def test_richer_families_stay_inside():
    """A Gaussian of the logit closes nearly all that a guide loses which is the prior."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", FORMS["in steps"](x))

    poor, settings = Functions(pair(FORMS["in steps"]).functions[0], guide), Ascent(max_steps=300)
    with measuring(poor, X, 0) as batch:
        found = richer(refine(poor, batch, settings, 0, False), settings, 1000, False)
    lost = exact(X) - ppvae.elbo(poor, X, 1000, seed=0, progress=False).estimate
    left = exact(X) - found["full_rank"].elbo.estimate
    assert (lost > 0.1).all()
    assert (left > -4.5 * found["full_rank"].elbo.std_error).all()
    assert (left < 0.1 * lost).all()
    assert not found["full_rank"].failed.any()


def test_a_guide_that_leaves_them_is_refused():
    """torch has a density there, and a weight that is none."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    outside = Functions(pair(FORMS["in steps"]).functions[0], guide)
    for measure in (ppvae.elbo, ppvae.log_evidence):
        with pytest.raises(ContractError, match=r"guide site 'z': found Normal, which has values outside the model's"):
            measure(outside, X, progress=False)


def test_data_outside_them_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0 * x, 1.0))
            base = dist.StudentT(3.0, z, 1.0)
            pyro.sample("x", dist.TransformedDistribution(base, steps(torch.zeros(()))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x, 1.0))

    with pytest.raises(ValueError, match=r"found row 1 outside the support of the likelihood at site 'x' \(2 such"):
        ppvae.elbo(Functions(model, guide), torch.tensor([1.0, -0.1, 2.9, 3.1]), progress=False)
