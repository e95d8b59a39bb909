"""`pyro.factor` is in the density alone; `pyro.deterministic` is exported; means are given where there are any."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import Functions, normal
from torch import nn

import ppvae
from ppvae import AIS, ContractError, Effort, Pair
from ppvae.inference.ledger.ascent import Ascent

pytestmark = pytest.mark.usefixtures("float64")
PRECISION = 3.0


def factored(x):
    """`p(x, z) = N(z; 0, 1) exp(-z^2) N(x; z, 1)`: the prior's precision is 3, its norm `3^-1/2`."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        twice = pyro.deterministic("twice", 2 * z)
        pyro.deterministic("pair", torch.stack(torch.broadcast_tensors(z, x), -1), event_dim=1)
        pyro.factor("sharper", -z.square())
        pyro.sample("x", dist.Normal(twice / 2, 1.0), obs=x)


def wide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / (1 + PRECISION), torch.full((len(x),), 0.6)))


class Sharper(Pair):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.6))

    def model(self, x):
        factored(x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / (1 + PRECISION), self.scale))


@pytest.fixture
def x():
    return torch.randn(5)


@pytest.fixture
def pair(x):
    pair = Sharper()
    pair.check(x)
    return pair


def exact(x):
    return normal(x, 0.0, (1 + 1 / PRECISION) ** 0.5) - 0.5 * torch.tensor(PRECISION).log()


@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_a_factor_is_in_the_elbo(kl, pair, x):
    mean, variance = x / (1 + PRECISION), 0.36
    by_hand = normal(x, mean, 1.0) - variance / 2 - PRECISION * (mean**2 + variance) / 2 + 0.5 + torch.tensor(0.6).log()
    draws = torch.stack([ppvae.ELBO(100, kl=kl)(pair, x)[0].detach() for _ in range(50)])
    assert ((draws.mean(0) - by_hand).abs() < 4 * draws.std(0) / 50**0.5).all()


@pytest.mark.parametrize("method", ["iwae", "ais", "ais from prior", "best"])
def test_a_factor_is_in_the_evidence(method, pair, x):
    annealing = (AIS(32, 30), AIS(32, 30, start="prior")) if method == "best" else AIS(32, 30)
    found = ppvae.log_evidence(pair, x, method, 3000, annealing=annealing, seed=0, progress=False)
    assert ((found.estimate - exact(x)).abs() < 4.5 * found.std_error).all()


@pytest.mark.slow(3)
def test_a_factor_is_in_the_ledger(pair, x):
    effort = Effort("iwae", 2000, num_samples=300, ascent=Ascent(max_steps=150), restarts=0, refit_steps=0)
    report = ppvae.gap(pair, x, effort, seed=0, progress=False)
    for name in ("elbo", "elbo_refined", "elbo_full_rank", "elbo_flow"):
        line = getattr(report, name)
        assert (line.estimate < exact(x) + 4 * line.std_error + 1e-3).all(), name
    assert (report.elbo_full_rank.estimate > exact(x) - 0.1).all()  # the posterior is Gaussian
    terms = ppvae.elbo_terms(pair, x, 50, progress=False)
    assert list(terms.latents) == ["z"]


def test_a_factor_is_neither_drawn_nor_reconstructed(pair, x):
    assert pair.sample(7).shape == (7,)
    assert set(pair.sample_joint(7)) == {"z", "x", "twice", "pair"}
    draws = pair.reconstruct(x, num_particles=4000)
    assert ((draws - x / (1 + PRECISION)).abs() < 4 * 0.6 / 4000**0.5).all()


@pytest.mark.parametrize(
    "measure",
    [
        lambda p, x: ppvae.calibration(p, 20, 5),
        lambda p, x: ppvae.expected_coverage(p, 20, 5),
        lambda p, x: ppvae.local_classifier_test(p, x, 20, 5),
        lambda p, x: ppvae.log_evidence(p, x, "bdmc"),
    ],
)
def test_what_simulates_data_refuses_a_factor(measure, pair, x):
    with pytest.raises(ContractError, match="model site 'sharper'"):
        measure(pair, x)


@pytest.mark.parametrize("posterior", ["guide", "resampled", "annealed"])
def test_the_export_has_no_factor_and_what_is_named(posterior, pair, x):
    settings = {"annealing": AIS(num_temperatures=20)} if posterior == "annealed" else {}
    found = ppvae.to_arviz(pair, x, posterior=posterior, num_samples=6, seed=0, progress=False, **settings)
    for group, names in {
        "posterior": {"z", "twice", "pair"},
        "prior": {"z", "twice", "pair"},
        "posterior_predictive": {"x"},
        "prior_predictive": {"x"},
        "log_likelihood": {"x"},
        "observed_data": {"x"},
    }.items():
        assert set(found[group].data_vars) == names, group
    z, twice, both = (torch.tensor(found.posterior[name].values[0]) for name in ("z", "twice", "pair"))
    torch.testing.assert_close(twice, 2 * z)
    torch.testing.assert_close(both, torch.stack([z, x.expand(6, 5)], -1))
    torch.testing.assert_close(torch.tensor(found.prior["twice"].values), 2 * torch.tensor(found.prior["z"].values))
    log_p = normal(z, 0.0, 1.0) - z.square() + normal(x, z, 1.0)
    torch.testing.assert_close(torch.tensor(found.sample_stats["log_p"].values[0]), log_p)


@pytest.mark.parametrize("num_samples", [3, 5])
def test_a_named_value_that_is_the_same_for_all_draws_is_exported_for_each(num_samples, x):
    """Of the data alone, or a constant; five draws are as many as there are rows."""

    def model(x):
        rate = pyro.deterministic("rate", x.exp())
        half = pyro.deterministic("half", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(half * pyro.sample("z", dist.Normal(0.0, rate)), 1.0), obs=x)

    pair = Functions(model, wide)
    pair.check(x)
    found = ppvae.to_arviz(pair, x, num_samples=num_samples, progress=False)
    torch.testing.assert_close(torch.tensor(found.posterior["rate"].values), x.exp().expand(1, num_samples, 5))
    assert (found.posterior["half"].values == 0.5).all()
    assert found.posterior["half"].shape == (1, num_samples, 5)


def test_an_imputed_value_is_exported(x):
    """`obs_mask` names the data, completed by draws."""
    known = torch.tensor([True, True, False, True, False])

    def model(x, known):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=known)

    def guide(x, known):
        with pyro.plate("data", len(x)):
            pyro.sample("x_unobserved", dist.Normal(torch.zeros(len(x)), 1.0).mask(~known))

    pair = Functions(model, guide)
    pair.check((x, known))
    found = ppvae.to_arviz(pair, (x, known), num_samples=3, progress=False).posterior
    completed = torch.where(known, x, torch.tensor(found["x_unobserved"].values[0]))
    torch.testing.assert_close(torch.tensor(found["x"].values[0]), completed)


def of_three(x, c, y):
    """Two components, summed out: a Gaussian, a class, and something without a mean."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 2.0])[k], 1.0), obs=x)
        pyro.sample("c", dist.Categorical(torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.5, 0.4]])[k]), obs=c)
        pyro.sample("y", dist.Cauchy(0.0, 1.0), obs=y)


def test_a_class_has_probabilities_and_what_has_no_mean_is_left_out(x):
    c, y = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5)
    pair = Functions(of_three)
    pair.check((x, c, y))
    with pytest.warns(UserWarning, match="reconstruct leaves out: model site 'y' has no mean, as Cauchy has none"):
        found = pair.reconstruct((x, c, y))
    assert set(found) == {"x", "c"}
    means, classes = torch.tensor([-1.0, 2.0]), torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.5, 0.4]])
    log_joint = torch.tensor([0.3, 0.7]).log() + normal(x[:, None], means, 1.0)
    share = (log_joint + classes[:, c].T.log()).softmax(-1)
    torch.testing.assert_close(found["x"], share @ means)
    torch.testing.assert_close(found["c"], share @ classes)


def test_classes_of_several_entries():
    logits = torch.randn(4, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Categorical(logits=logits * z[..., None, None]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x),), 2.0), 1e-9))

    x = torch.randint(3, (5, 4))
    found = Functions(model, guide).reconstruct(x)
    torch.testing.assert_close(found, (2 * logits).softmax(-1).expand(5, 4, 3))


class Meanless(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError


def test_a_likelihood_without_a_mean_is_named(x):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", Meanless(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    pair = Functions(model, wide)
    pair.check(x)
    with pytest.raises(NotImplementedError, match=r"model site 'x' has no mean, as Meanless has none; draw .*to_arviz"):
        pair.reconstruct(x)
    assert ppvae.to_arviz(pair, x, num_samples=3, progress=False).posterior_predictive["x"].shape == (1, 3, 5)
