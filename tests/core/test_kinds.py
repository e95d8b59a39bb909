"""Kinds of latents that only look like others: held against integrals over a grid, or refused by name."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.functions import Functions, normal

import ppvae
from ppvae import ContractError
from ppvae.kinds import support_of

pytestmark = pytest.mark.usefixtures("float64")
X = torch.tensor([0.5, -1.0, 1.5, 0.1, 2.0], dtype=torch.float64)
EXACT = normal(X, torch.tensor(0.0), 2**0.5)
UNIFORM = dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [dist.transforms.AffineTransform(-3.0, 2.0)])


def pair(prior, posterior, likelihood=lambda z: dist.Normal(z, 1.0)):
    """`prior()`, `posterior(x)` and `likelihood(z)` of one latent."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(pyro.sample("z", prior())), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return Functions(model, guide)


def standard():
    return dist.Normal(torch.tensor(0.0), 1.0)


def integral(prior, likelihood, low, high, data=X):
    z = torch.linspace(low, high, 20_001, dtype=torch.float64)[:, None]
    log_joint = prior.log_prob(z) + likelihood(z.expand(-1, len(data))).log_prob(data)
    return log_joint.logsumexp(0) + math.log((high - low) / 20_000)


def evidence(pair, x, method):
    return ppvae.log_evidence(pair, x, method, seed=0, progress=False)


def half_line(x):
    shift = dist.transforms.AffineTransform(x / 2, torch.ones_like(x))
    return dist.TransformedDistribution(dist.HalfNormal(torch.ones_like(x)), [shift])


@pytest.mark.parametrize(
    ("fn", "inside", "outside"),
    [
        (UNIFORM, [-2.9, -1.1], [-3.1, -0.9, 0.5]),
        (half_line(torch.tensor([-2.0])), [-0.9, 5.0], [-1.1, -5.0]),
        (dist.TransformedDistribution(UNIFORM, [dist.transforms.ExpTransform()]), [0.06, 0.3], [0.02, 0.5, -1.0]),
        (dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.ExpTransform()]), [0.01], [-0.01]),
    ],
)
def test_transforms_of_a_part_of_the_line_have_values_in_a_part_of_it(fn, inside, outside):
    assert support_of(fn).check(torch.tensor(inside)).all()
    assert not support_of(fn).check(torch.tensor(outside)).any()


def test_a_guide_on_half_the_line_is_found_out_behind_a_transform():
    """Its weights' mean is the posterior's mass there, by a half too low; the weights themselves look fine."""
    halved = pair(standard, half_line)
    assert not evidence(halved, X, "iwae").reliable.any()
    found = evidence(halved, X, "auto")
    assert found.reliable.all()
    assert ((found.estimate - EXACT).abs() < 5 * found.std_error + 0.01).all()
    with pytest.raises(ContractError, match=r"guide site 'z': found TransformedDistribution.*same support"):
        evidence(halved, X, "ais")


def test_a_guide_on_the_same_part_of_the_line_as_the_prior_is_right():
    found = evidence(pair(lambda: UNIFORM, lambda x: UNIFORM.expand(x.shape)), X, "iwae")
    assert found.reliable.all()
    exact = integral(dist.Uniform(-3.0, -1.0), lambda z: dist.Normal(z, 1.0), -3.0 + 1e-9, -1.0 - 1e-9)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()


def angles():
    components = dist.VonMises(torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 2.0]))
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), components)


@pytest.mark.parametrize("method", ["iwae", "ais", "ais from prior"])
def test_a_mixture_of_angles_is_an_angle(method):
    found = evidence(pair(angles, lambda x: dist.VonMises(0 * x, 0.5)), X, method)
    exact = integral(angles(), lambda z: dist.Normal(z, 1.0), -math.pi, math.pi)
    assert found.reliable.all()
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()


def mixed_with_a_point(x):
    return dist.MaskedMixture(x > 0, dist.Normal(x / 2, 0.7), dist.Delta(x / 2))


def zero_or_normal():
    return dist.ZeroInflatedDistribution(dist.Normal(torch.tensor(0.0), 1.0), gate=torch.tensor(0.5))


def turned():
    return dist.TransformedDistribution(
        dist.VonMises(torch.tensor(0.0), 1.0), [dist.transforms.AffineTransform(0.5, 1)]
    )


def wide(x):
    return dist.Normal(0 * x, 4.0)


def squared():
    return dist.TransformedDistribution(standard(), [dist.transforms.PowerTransform(torch.tensor(2.0))])


def positive(x):
    return dist.LogNormal(0 * x, 1.0)


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [
        (squared, positive, "model site 'z': found PowerTransform of values outside its domain"),
        (angles, wide, "guide site 'z': found Normal, which is on the line, for an angle"),
        (turned, wide, "model site 'z': found transforms of an angle"),
        (zero_or_normal, wide, "model site 'z': found ZeroInflatedDistribution, which gives a probability to one"),
        (standard, mixed_with_a_point, "guide site 'z': found Delta, a point without a density"),
        (standard, lambda x: dist.Delta(x / 2, log_density=1.0), "found Delta with a log_density, and one value"),
    ],
)
@pytest.mark.parametrize("measure", [ppvae.elbo, ppvae.log_evidence])
def test_what_makes_no_weight_is_refused_by_name(prior, posterior, message, measure):
    with pytest.raises(ContractError, match=message):
        measure(pair(prior, posterior), X, progress=False)


def test_a_value_that_is_given_has_no_coordinates():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Delta(pyro.sample("u", dist.Normal(0 * x, 1.0))))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pyro.sample("u", dist.Normal(x / 2, 0.7))))

    given = Functions(model, guide)
    found = evidence(given, X, "auto")
    assert ((found.estimate - EXACT).abs() < 5 * found.std_error).all()
    with pytest.raises(ContractError, match=r"site 'z': found Delta, whose value is given.*pyro.deterministic"):
        evidence(given, X, "ais")


def masked(in_model, in_guide):
    def model(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there if in_model else True):
            z = pyro.sample("z", dist.Normal(0 * x, 1.0))
            with poutine.mask(mask=there):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there if in_guide else True):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    return Functions(model, guide)


@pytest.mark.parametrize(("in_model", "one", "other"), [(True, "model", "guide"), (False, "guide", "model")])
@pytest.mark.parametrize("row", [1, 15])
def test_a_latent_is_masked_alike_in_model_and_guide_or_refused(in_model, one, other, row):
    """Wherever the row is: the check of the pair looks at the first few only."""
    x, there = X.repeat(4), torch.ones(20, dtype=torch.bool)
    there[row] = False
    exact = torch.where(there, EXACT.repeat(4), 0.0)
    found = evidence(masked(True, True), (x, there), "iwae")
    assert ((found.estimate - exact).abs() < 5 * found.std_error + 1e-12).all()
    with pytest.raises(ContractError, match=f"site 'z': found masked in the {one} for data .* not in the {other}"):
        evidence(masked(in_model, not in_model), (x, there), "iwae")


COUNTS = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0])
BY_ROWS = {
    "a distribution inside": (lambda z: dist.ZeroInflatedDistribution(dist.Poisson(z.exp()), gate_logits=z), COUNTS),
    "a temperature of its own": (lambda z: dist.RelaxedBernoulli(z.exp(), probs=torch.full_like(z, 0.4)), X.sigmoid()),
}


@pytest.mark.parametrize("name", BY_ROWS)
def test_what_a_distribution_is_made_of_is_split_with_it(name):
    likelihood, data = BY_ROWS[name]

    def flat(z):
        return likelihood(z.view(len(z)))  # takes no particles, so the pair is run by rows

    with pytest.warns(UserWarning, match="by rows"):
        found = evidence(pair(standard, lambda x: dist.Normal(0 * x, 1.0), flat), data, "iwae")
    exact = integral(standard(), likelihood, -8.0, 8.0, data)
    assert ((found.estimate - exact).abs() < 5 * found.std_error).all()


class WithoutDraws(dist.Normal):
    """A density alone, as of a prior that nobody simulates."""

    def rsample(self, sample_shape=()):
        raise NotImplementedError


def test_a_prior_without_draws_is_measured():
    """`int N(z; 0, 1) N(x; z, 1) dz = N(x; 0, 2)`."""
    without = pair(lambda: WithoutDraws(torch.zeros(()), 1.0), lambda x: dist.Normal(x / 2, 0.6))
    report = ppvae.gap(without, X, effort="quick", seed=0, progress=False)
    exact = dist.Normal(0.0, 2**0.5).log_prob(X)
    assert ((report.log_evidence.estimate - exact).abs() < 5 * report.log_evidence.std_error + 1e-6).all()
    ratio = 0.6**2 / 0.5  # of the guide's variance to the posterior's
    cost = (ratio - 1 - math.log(ratio)) / 2
    assert ((report.gap.estimate - cost).abs() < 5 * report.gap.std_error).all()


@pytest.mark.parametrize("wrap", [lambda fn: fn, lambda fn: fn.mask(True), lambda fn: fn.expand((1,))])
def test_a_prior_that_is_not_normalized_is_trained_and_not_measured(wrap):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", wrap(dist.ImproperUniform(dist.constraints.real, (), ())))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    improper = ppvae.Pair.of(model, guide, example=X)
    ppvae.fit(improper, X, steps=1, progress=False)
    for measure in (ppvae.elbo, ppvae.log_evidence, ppvae.gap):
        with pytest.raises(ContractError, match=r"model site 'z': found .*ImproperUniform.* undefined .* Normal\("):
            measure(improper, X, progress=False)
