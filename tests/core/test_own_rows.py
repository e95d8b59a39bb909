"""Guides with parameters for the rows that they were made for: run on all of these, in order, and on no others."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from support.corpus.closed_forms import linear_log_evidence, linear_posterior
from support.slow import some_slow

import ppvae
from ppvae import AIS, ContractError, Pair
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.effort import Effort
from ppvae.inference.ledger.latent_usage import mutual_information
from ppvae.inference.runtime import chunks
from ppvae.simulation import simulate

pytestmark = pytest.mark.usefixtures("float64")
WEIGHT = [[1.0, 0.3], [-0.5, 0.8], [0.7, -1.0]]
QUIET = {"seed": 0, "progress": False}
EFFORT = Effort("iwae", num_particles=10, num_samples=1000, ascent=Ascent(max_steps=150), restarts=0)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.tensor(WEIGHT).T, 0.7).to_event(1), obs=x)


def posterior(x):
    return linear_posterior(x, torch.tensor(WEIGHT), 0.0, 0.7)


def exact(x):
    return linear_log_evidence(x, torch.tensor(WEIGHT), 0.0, 0.7)


def guide_like_auto_normal(x):
    """The same distributions, computed from the data."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(posterior(x).mean + 0.2, 0.6).to_event(1))


def auto_normal(x, model=model, scale=0.6):
    return AutoNormal(model, init_loc_fn=init_to_value(values={"z": posterior(x).mean + 0.2}), init_scale=scale)


@pytest.fixture(autouse=True)
def empty_store():
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def x():
    return torch.randn(5, 3)


@pytest.fixture
def pair(x):
    return Pair.of(model, auto_normal(x), x)


SAME = {
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 20, **QUIET).estimate,
    "iwae": lambda pair, x: ppvae.log_evidence(pair, x, "iwae", 20, **QUIET).estimate,
    "draws": lambda pair, x: torch.tensor(ppvae.to_arviz(pair, x, num_samples=3, **QUIET)["posterior"]["z"].values),
    "objective": lambda pair, x: torch.manual_seed(0) and ppvae.IWAE(4)(pair, x)[0].detach(),
    "information": lambda pair, x: torch.manual_seed(0) and torch.tensor(mutual_information(pair, x)["z"]),
}


@pytest.mark.parametrize("measure", SAME.values(), ids=SAME)
def test_it_gives_the_numbers_of_a_function_of_the_same_values(measure, pair, x, monkeypatch):
    """On the same noise, of which the search for a size of chunks would take more for the one than for the other."""
    monkeypatch.setattr(chunks, "chunk_rows", lambda *args: 10_000)
    torch.testing.assert_close(measure(pair, x), measure(Pair.of(model, guide_like_auto_normal, x), x))


ALIKE = {
    "elbo": lambda pair, x: ppvae.elbo(pair, x, 2000, **QUIET),
    "KL": lambda pair, x: ppvae.elbo_terms(pair, x, 2000, **QUIET).latents["z"].kl,
    "ais": lambda pair, x: ppvae.log_evidence(pair, x, "ais", annealing=AIS(16, 50), **QUIET),
    "full rank": lambda pair, x: ppvae.gap(pair, x, EFFORT, **QUIET).elbo_full_rank,
}


@pytest.mark.parametrize("name", some_slow(ALIKE, 6, lambda name: name != "full rank"))
def test_it_gives_its_numbers_within_their_errors(name, pair, x):
    found, expected = ALIKE[name](pair, x), ALIKE[name](Pair.of(model, guide_like_auto_normal, x), x)
    error = torch.hypot(found.std_error, expected.std_error)
    assert ((found.estimate - expected.estimate).abs() < 5 * error + 1e-2).all()


def test_where_memory_runs_out_particles_are_taken_in_turn_and_never_rows(pair, x):
    seen = []

    def measure(points, num_particles, at_once):
        seen.append((len(points), at_once))
        if at_once > most:
            raise MemoryError
        return {"estimate": points.sum(1)}

    for most, expected in ((2, (5, 2)), (0, (5, 1))):
        with pytest.raises(MemoryError) if not most else nullcontext():
            chunks.over_data(pair, x, 16, measure, None, probe=lambda points, num, at_once: {"x": points.sum(1)})
        assert seen[-1] == expected


def test_more_rows_than_the_check_tries_are_its_own_too():
    x = torch.randn(20, 3)
    pair = Pair.of(model, auto_normal(x), x)
    assert torch.equal(pair.own_rows, x)
    expected = ppvae.elbo(Pair.of(model, guide_like_auto_normal, x), x, 2000, **QUIET)
    found = ppvae.elbo(pair, x, 2000, **QUIET)
    assert (found.estimate - expected.estimate).abs().max() < 5 * (found.std_error + expected.std_error).max()


OTHERS = {
    "fewer": (lambda x: x[:3], "found a batch of 3 rows, expected the 5 rows"),
    "more": (lambda x: torch.cat([x, x]), "found a batch of 10 rows, expected the 5 rows"),
    "reordered": (lambda x: x[[0, 1, 3, 2, 4]], "found that row 2 is not that of the example"),
    "changed": (lambda x: torch.cat([x[:4], x[4:] + 1e-3]), "found that row 4 is not that of the example"),
}
TAKERS = {
    "log_weights": lambda pair, x: pair.log_weights(x),
    "latents": lambda pair, x: pair.latents(x),
    "reconstruct": lambda pair, x: pair.reconstruct(x),
    "elbo": lambda pair, x: ppvae.elbo(pair, x, **QUIET),
    "log_evidence": lambda pair, x: ppvae.log_evidence(pair, x, **QUIET),
    "gap": lambda pair, x: ppvae.gap(pair, x, "quick", **QUIET),
    "to_arviz": lambda pair, x: ppvae.to_arviz(pair, x, **QUIET),
    "fit": lambda pair, x: ppvae.fit(pair, x, steps=1, **QUIET),
    "held_out": lambda pair, x: ppvae.fit(pair, pair.own_rows, steps=1, held_out=x, **QUIET),
    "step": lambda pair, x: ppvae.Trainer(pair).step(x),
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize(("other", "said"), OTHERS.values(), ids=OTHERS)
def test_no_other_rows_are_taken(other, said, take, pair, x):
    with pytest.raises(ContractError, match=f"{said}.* write an amortized guide"):
        take(pair, other(x))


def test_data_are_the_rows_in_any_precision_and_as_an_array(pair, x):
    expected = ppvae.elbo(pair, x, **QUIET).estimate
    for same in (x.numpy(), x.clone()):
        assert torch.equal(ppvae.elbo(pair, same, **QUIET).estimate, expected)


def test_new_data_are_not_simulated_for_it(pair, x):
    for ask in (
        lambda: simulate(pair, x),
        lambda: ppvae.calibration(pair, 10, 2, progress=False),
        lambda: ppvae.expected_coverage(pair, 10, 2, progress=False),
        lambda: ppvae.local_classifier_test(pair, x, 10, 2, progress=False),
        lambda: ppvae.log_evidence(pair, x, "bdmc", annealing=AIS(2, 10), **QUIET),
    ):
        with pytest.raises(ContractError, match="simulated data are new ones"):
            ask()
    assert pair.sample(8).shape == (8, 3)  # of the model alone


@pytest.mark.slow(6)
def test_auto_anneals_all_rows_where_some_are_bad(x):
    """The guide is too narrow for all k-hats to be good; AIS, on all rows, gives those that need it."""
    pair = Pair.of(model, auto_normal(x, scale=0.12), x)
    found = ppvae.log_evidence(pair, x, annealing=AIS(16, 100), **QUIET)
    assert "ais" in found.methods
    by_ais = torch.tensor([method == "ais" for method in found.methods])
    assert ((found.estimate - exact(x)).abs() < 5 * found.std_error)[by_ais].all()


@pytest.mark.slow(3)
def test_it_is_trained_on_all_rows_in_their_order(x):
    """To the best factorized Gaussian of each row: its gap is (sum log P_jj - log det P) / 2, P the precision."""
    pair = Pair.of(model, AutoNormal(model), x)
    with pytest.raises(ContractError, match=r"batch_size: found 4, expected 5 or more.* pass batch_size=5"):
        ppvae.fit(pair, x, steps=1, batch_size=4, progress=False)
    ppvae.fit(pair, x, ppvae.ELBO(8), steps=800, lr=0.03, schedule=lambda done: 0.01**done, progress=False)
    precision = posterior(x).precision_matrix
    gap = (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision)) / 2
    found = ppvae.elbo(pair, x, 4000, **QUIET)
    assert ((found.estimate - (exact(x) - gap)).abs() < 5 * found.std_error + 2e-3).all()


def test_a_point_for_each_row_is_trained_to_the_mode(x):
    pair = Pair.of(model, AutoDelta(model), x)
    ppvae.fit(pair, x, steps=600, lr=0.05, schedule=lambda done: 0.01**done, progress=False)
    torch.testing.assert_close(pair.latents(x)["z"][0], posterior(x).mean, atol=1e-3, rtol=0)


CONSTRAINED = {
    "positive": (dist.LogNormal(0.0, 1.0), lambda z: z),
    "interval": (dist.Uniform(-2.0, 3.0), lambda z: z),
    "vector": (dist.Gamma(torch.tensor([2.0, 3.0]), 1.0).to_event(1), lambda z: z.sum(-1)),
    "simplex": (dist.Dirichlet(torch.ones(3)), lambda z: z[..., 0]),
    "real": (dist.Normal(0.0, 1.0), lambda z: z),
}


@pytest.mark.parametrize(("prior", "mean"), CONSTRAINED.values(), ids=CONSTRAINED)
def test_a_latent_is_one_site_with_the_density_that_pyro_gives_it(prior, mean):
    """Pyro's own is that of the unconstrained draw, and of the Delta that follows it."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean(pyro.sample("z", prior)), 1.0), obs=x)

    x = torch.randn(4)
    guide = AutoNormal(model, init_scale=0.5)
    weights = Pair.of(model, guide, x).log_weights(x, 3)
    assert list(weights.latents) == ["z"]
    for k in range(3):
        u = torch.distributions.biject_to(prior.support).inv(weights.latents["z"][k])
        trace = poutine.trace(poutine.condition(guide, data={"z_unconstrained": u})).get_trace(x)
        trace.nodes["z"]["value"] = trace.nodes["z"]["fn"].v
        trace.compute_log_prob()
        expected = sum(trace.nodes[name]["log_prob"] for name in ("z", "z_unconstrained"))
        torch.testing.assert_close(weights.log_q[k], expected)


def test_guides_of_two_models_may_name_their_latents_alike():
    """Held by one object, one for a latent on the line, one for a positive one: each has its own support.

    Of z ~ N(0, 1), x ~ N(z, 1) under z ~ N(a, s^2) the ELBO is known; in place of a draw u of that guide, exp(u) would
    have another.
    """

    class Experiment:
        def __init__(self):
            self.of_real, self.of_positive = AutoNormal(self.real, init_scale=0.5), AutoNormal(self.positive)

        def under(self, prior, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", prior), 1.0), obs=x)

        def real(self, x):
            self.under(dist.Normal(0.0, 1.0), x)

        def positive(self, x):
            self.under(dist.Gamma(2.0, 1.0), x)

        def guide(self, x):
            return self.of_real(x)

    both, x = Experiment(), torch.randn(5)
    both.of_real(x), both.of_positive(x)
    found = ppvae.elbo(Pair.of(both.real, both.guide, x), x, 4000, **QUIET)
    loc, scale = both.of_real.locs.z.detach(), both.of_real.scales.z.detach()
    kl = torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0))
    exact_elbo = dist.Normal(loc, 1.0).log_prob(x) - scale.square() / 2 - kl
    assert ((found.estimate - exact_elbo).abs() < 5 * found.std_error).all()


def test_a_model_that_takes_no_leading_dimensions_is_run_by_rows(x):
    """The guide stays as it is; the numbers are those of each particle by itself."""

    def normalized(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = torch.nn.functional.normalize(z, dim=1) @ torch.tensor(WEIGHT).T
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)

    with pytest.warns(UserWarning, match="run by rows"):
        pair = Pair.of(normalized, auto_normal(x, normalized), x)
    weights = pair.log_weights(x, 4)
    for k in range(4):
        trace = poutine.trace(poutine.condition(normalized, data={"z": weights.latents["z"][k]})).get_trace(x)
        trace.compute_log_prob()
        torch.testing.assert_close(weights.log_p_sites["x"][k], trace.nodes["x"]["log_prob"])


def test_a_guide_that_mixes_particles_is_refused(x):
    def two(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((a + b).sum(-1), 1.0), obs=x[:, 0])

    def guide(x):
        loc = pyro.param("loc", torch.randn(5, 2))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("b", dist.Normal(loc * torch.softmax(a, 1), 1.0).to_event(1))

    with pytest.raises(ContractError, match=r"guide site 'b'.* among several.*dim=-1"):
        Pair.of(two, guide, x)


def test_parameters_taken_by_position_are_those_of_the_rows(x):
    """Found though all entries are equal, as before training."""

    def guide(x):
        loc = pyro.param("loc", torch.zeros(5, 2))[: len(x)]
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    pair = Pair.of(model, guide, x)
    assert torch.equal(pair.own_rows, x)
    with pytest.raises(ContractError, match="found a batch of 3 rows"):
        pair.log_weights(x[:3])


@pytest.mark.parametrize("num_hidden", [5, 6])
def test_parameters_that_serve_all_rows_are_not(num_hidden, x):
    """Even if they have as many entries as there are rows."""

    def guide(x):
        weight = pyro.param("weight", torch.randn(num_hidden, 3))
        out = pyro.param("out", torch.randn(num_hidden, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x @ weight.T) @ out, 1.0).to_event(1))

    assert Pair.of(model, guide, x).own_rows is None


def test_a_plate_of_fixed_size_in_the_model_is_refused(x):
    def fixed(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.tensor(WEIGHT).T, 0.7).to_event(1), obs=x)

    with pytest.raises(ContractError, match=r"model.*as len\(x\) does"):
        Pair.of(fixed, auto_normal(x, fixed), x)


class Easy(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x)):
            loc = pyro.param("loc", lambda: posterior(x).mean + 0.2)
            pyro.sample("z", dist.Normal(loc, 0.6).to_event(1))


class EasyPoint(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x)):
            self.map_estimate("z")


def test_an_easy_guide(x):
    """It keeps the plates of a call that fails, as with fewer rows than it has parameters for."""
    pair, like = Pair.of(model, Easy(model), example=x), Pair.of(model, guide_like_auto_normal, example=x)
    assert pair.own_rows is not None
    assert like.own_rows is None
    one, two = [ppvae.elbo(each, x, num_samples=1000, **QUIET) for each in (pair, like)]
    assert ((one.estimate - two.estimate).abs() < 5 * torch.hypot(one.std_error, two.std_error)).all()
    with pytest.raises(ContractError, match="expected the 5 rows"):
        ppvae.elbo(pair, x[:3], **QUIET)
    ppvae.fit(pair, x, steps=2, batch_size=len(x), progress=False)
    points = Pair.of(model, EasyPoint(model), example=x)
    ppvae.fit(points, x, steps=2, batch_size=len(x), progress=False)
    with pytest.raises(ContractError, match="found Delta, a point"):
        ppvae.elbo(points, x, **QUIET)


def test_an_easy_guide_of_any_rows_after_data_that_fail(x):
    class Amortized(EasyGuide):
        def guide(self, x):
            with self.plate("data", len(x)):
                pyro.sample("z", dist.Normal(posterior(x).mean, 0.6).to_event(1))

    pair = Pair.of(model, Amortized(model), example=x)
    before = ppvae.elbo(pair, x, **QUIET).estimate
    with pytest.raises(ContractError):
        ppvae.elbo(pair, x[:4, :2], **QUIET)
    assert torch.equal(ppvae.elbo(pair, x, **QUIET).estimate, before)
