"""A guide that gives probability zero where the posterior has some never counts as exact; nor do equal weights."""

import math
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import Functions, normal

import ppvae
from ppvae import AIS, ContractError, Pair, contract, supports
from ppvae.configurations import log_prob_by_configurations
from ppvae.sites import sample_sites
from ppvae.supports import left_out
from ppvae.tracing import trace_pair

pytestmark = pytest.mark.usefixtures("float64")


class Codes(Pair):
    """Two codes of three values each, `x ~ N(sum of both, 1)`: nine configurations, that Pyro does not enumerate."""

    def __init__(self, guide="exact", num=2):
        super().__init__()
        self.way, self.num = guide, num
        self.values = torch.tensor([-1.0, 0.0, 2.0])
        self.prior = torch.tensor([0.5, 0.3, 0.2])

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(self.prior.expand(self.num, 3)).to_event(1))
            pyro.sample("x", dist.Normal(self.values[c].sum(-1), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(self.probs(x)).to_event(1))

    def probs(self, x):
        nearest = (x[:, None] / self.num - self.values).abs().argmin(-1)
        one_hot = torch.nn.functional.one_hot(nearest, 3).to(x.dtype)[:, None].expand(-1, self.num, 3)
        if self.way == "nearly one-hot":
            return one_hot * (1 - 3e-9) + 1e-9
        return one_hot if self.way == "one-hot" else self.prior.expand(len(x), self.num, 3)

    def exact(self, x):
        terms = [
            self.prior[list(c)].log().sum() + normal(x, self.values[list(c)].sum(), 1.0)
            for c in product(range(3), repeat=self.num)
        ]
        return torch.stack(terms).logsumexp(0)


@pytest.fixture
def x():
    return torch.randn(6)


@pytest.mark.parametrize("guide", ["one-hot", "nearly one-hot", "prior"])
def test_codes_are_summed_over_all_configurations(guide, x):
    pair = Codes(guide)
    torch.testing.assert_close(log_prob_by_configurations(pair, x), pair.exact(x))
    for method in ("auto", "exact", "best"):
        found = ppvae.log_evidence(pair, x, method, progress=False)
        assert found.method == "exact"
        torch.testing.assert_close(found.estimate, pair.exact(x))


def test_the_gap_of_a_one_hot_guide_is_what_it_leaves_out(x):
    pair = Codes("one-hot")
    code = pair.probs(x)[:, 0].argmax(-1)
    elbo = 2 * pair.prior[code].log() + normal(x, 2 * pair.values[code], 1.0)
    report = ppvae.gap(pair, x, "quick", progress=False)
    torch.testing.assert_close(report.elbo.estimate, elbo)
    torch.testing.assert_close(report.gap.estimate, pair.exact(x) - elbo)
    assert (report.gap.estimate > 0.1).all()


@pytest.mark.parametrize("guide", ["one-hot", "nearly one-hot"])
def test_equal_weights_of_codes_prove_nothing(guide, x):
    """By importance weights alone, as where there are too many configurations: unreliable, and said so."""
    pair, many = Codes(guide), Codes(guide, num=10)
    for method, each in (("iwae", pair), ("auto", many), ("best", many)):
        found = ppvae.log_evidence(each, x, method, 500, seed=0, progress=False)
        assert (found.khat == math.inf).all()
        assert "unreliable for 6 of 6" in found.warning
    assert (ppvae.bound_curve(pair, x, [10, 100], progress=False).khat == math.inf).all()
    report = ppvae.gap(many, x, "quick", seed=0, progress=False)
    assert "not to be trusted" in report.verdict()
    assert "not what keeps it low" not in report.verdict()
    pair.check(x)
    drawn = ppvae.to_arviz(pair, x, posterior="resampled", num_samples=20, seed=0, progress=False)
    assert (drawn.sample_stats["khat"].values == math.inf).all()


def test_weights_of_codes_that_differ_are_judged_by_their_tail(x):
    pair = Codes("prior")
    found = ppvae.log_evidence(pair, x, "iwae", 2000, seed=0, progress=False)
    assert ((found.estimate - pair.exact(x)).abs() < 5 * found.std_error).all()


def test_equal_weights_of_a_continuous_latent_are_an_exact_guide(x):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    found = ppvae.log_evidence(Functions(model, guide), x, progress=False)
    assert found.reliable.all()
    torch.testing.assert_close(found.estimate, normal(x, 0.0, 2**0.5))


def gaussian(guide):
    """`z ~ N(0, 1)`, `x ~ N(z, 1)`."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "x", dist.Normal(pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)), 1.0).to_event(1), obs=x
            )

    def bounded(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", guide(x).to_event(1))

    return Functions(model, bounded)


BOUNDED = {
    "Uniform": lambda x: dist.Uniform(x / 2 - 0.3, x / 2 + 0.3),
    "Beta": lambda x: dist.Beta(torch.full_like(x, 2.0), 2.0),
    "Gamma": lambda x: dist.Gamma(torch.full_like(x, 2.0), 2.0),
    "tanh": lambda x: dist.TransformedDistribution(dist.Normal(x / 2, 0.5), [dist.transforms.TanhTransform()]),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(*x.shape, 2)),
        dist.Uniform(x[..., None] - torch.ones(2), x[..., None] + torch.ones(2)),
    ),
}


@pytest.mark.slow(3)
@pytest.mark.parametrize("guide", BOUNDED.values(), ids=BOUNDED)
def test_a_bounded_guide_of_an_unbounded_latent_leaves_some_out(guide):
    x = torch.randn(6, 2)
    pair, exact = gaussian(guide), normal(x, 0.0, 2**0.5).sum(-1)
    found = ppvae.log_evidence(pair, x, "iwae", 2000, seed=0, progress=False)
    assert (found.khat == math.inf).all()
    assert not found.reliable.any()
    with pytest.raises(ContractError, match=r"site 'z': .* (AIS\(start='prior'\)|no bijection)"):
        ppvae.log_evidence(pair, x, "ais", progress=False)
    for annealing in (AIS(32, 40), AIS(32, 40, start="prior")):
        auto = ppvae.log_evidence(pair, x, annealing=annealing, seed=0, progress=False)
        assert set(auto.methods) == {"ais from prior"}
        assert ((auto.estimate - exact).abs() < 4.5 * auto.std_error).all()


UNBOUNDED = {"Normal": lambda x: dist.Normal(0.6 * x, 0.5), "StudentT": lambda x: dist.StudentT(3.0, 0.6 * x, 0.5)}


@pytest.mark.slow(3)
@pytest.mark.parametrize("guide", UNBOUNDED.values(), ids=UNBOUNDED)
def test_an_unbounded_guide_of_a_bounded_latent_draws_some_in_vain(guide):
    """`z ~ Uniform(-1, 1)`: draws outside have weight zero."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Uniform(-1.0, torch.tensor(1.0))), 0.5), obs=x)

    def unbounded(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", guide(x))

    x = torch.linspace(-0.8, 0.8, 5)
    pair, cdf = Functions(model, unbounded), dist.Normal(x, 0.5).cdf
    exact = ((cdf(torch.tensor(1.0)) - cdf(torch.tensor(-1.0))) / 2).log()
    settings = (AIS(32, 40), AIS(32, 40, start="prior"))
    for method in ("iwae", "auto", "best"):
        found = ppvae.log_evidence(
            pair, x, method, 5000, annealing=settings if method == "best" else None, seed=0, progress=False
        )
        assert found.reliable.all()
        assert ((found.estimate - exact).abs() < 4 * found.std_error).all()
    with pytest.raises(ContractError, match=r"guide site 'z': .* for Uniform in the model.*AIS\(start='prior'\)"):
        ppvae.log_evidence(pair, x, "ais", progress=False)
    with pytest.raises(ValueError, match="latents to which the model gives no density"):
        ppvae.elbo(pair, x, progress=False)


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (dist.LogNormal(0.0, 1.0), dist.Gamma(2.0, 2.0)),
        (dist.Beta(2.0, 2.0), dist.Uniform(0.0, 1.0)),
        (dist.Normal(0.0, 1.0).expand([3]).to_event(1), dist.MultivariateNormal(torch.zeros(3), torch.eye(3))),
        (dist.Dirichlet(torch.ones(3)), dist.Dirichlet(2 * torch.ones(3))),
        (dist.Poisson(2.0), dist.Geometric(0.5)),
        (dist.Categorical(torch.ones(3)), dist.Categorical(torch.tensor([0.5, 0.5, 0.0]))),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_what_covers_the_model_leaves_nothing_out(q, p):
    def pair(q, p):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", p)
                pyro.sample(
                    "x", dist.Normal(z.reshape(*z.shape[: z.dim() - len(p.event_shape)], -1).sum(-1), 1.0), obs=x
                )

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", q)

        return Functions(model, guide)

    x = torch.randn(4)
    assert not left_out(pair(q, p), x, trace_pair(pair(q, p), x, 1)).any()
    if isinstance(p, dist.Categorical):
        assert left_out(pair(p, q), x, trace_pair(pair(p, q), x, 1)).all()


def test_a_guide_bounded_as_the_posterior_is_leaves_nothing_out():
    """`x = floor(z)` is known: only z from x to x + 1 are possible."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, torch.tensor(4.0)))
            pyro.sample("x", dist.Delta(z.floor()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x, x + 1))

    x = torch.tensor([0.0, 2.0, 3.0])
    found = ppvae.log_evidence(Functions(model, guide), x, progress=False)
    assert found.reliable.all()
    torch.testing.assert_close(found.estimate, torch.full((3,), 0.25).log())


@pytest.mark.parametrize(
    "q", [dist.Poisson(2.0), dist.Empirical(torch.randn(5), torch.zeros(5))], ids=["Poisson", "Empirical"]
)
def test_a_probability_against_a_density_is_refused(q, x):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    found = "a value that" if isinstance(q, dist.Empirical) else ".*discrete, for Normal .*continuous"
    with pytest.raises(ContractError, match=f"guide site 'z': found {found}"):
        ppvae.log_evidence(Functions(model, guide), x, "iwae", progress=False)


class Layers(Pair):
    """A chain of as many latents as one likes."""

    def __init__(self, num):
        super().__init__()
        self.num = num

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x))
            for i in range(self.num):
                z = pyro.sample(f"z{i}", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            for i in range(self.num):
                pyro.sample(f"z{i}", dist.Normal(x, 1.0))


def test_a_site_is_not_looked_at_once_for_each_other_site(x, monkeypatch):
    """Diffusions have thousands."""

    def looks(num):
        count = []
        for module in (contract, supports):
            monkeypatch.setattr(module, "sample_sites", lambda *a, **k: count.append(1) or sample_sites(*a, **k))
        pair = Layers(num)
        pair.check(x)
        left_out(pair, x, trace_pair(pair, x, 1))
        monkeypatch.undo()
        return len(count)

    assert looks(20) == looks(3)
