"""What latents are used for, against the closed forms of Gaussians."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.small_pairs import Shift
from support.zoo import ZOO
from torch.distributions import Normal, kl_divergence

import ppvae
from ppvae import Pair
from ppvae.inference.ledger.terms import elbo_terms_of
from ppvae.inference.runtime.measuring import measuring
from ppvae.models import LinearVAE

NUM_SAMPLES = 400


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def measured(pair, data, num_samples=NUM_SAMPLES, seed=0):
    with measuring(pair, data, seed) as batch:
        return elbo_terms_of(pair, batch, num_samples, progress=False).latents


def assert_within_errors(measurement, exact, k=4.5):
    """Each data point's estimate, by the error that it gives; all errors are above zero."""
    z = (measurement.estimate - exact) / measurement.std_error
    assert (measurement.std_error > 0).all()
    assert z.abs().max() < k, z


class Chain(Pair):
    """`z2 -> z1 -> x`, each a number, guided in that order by `z2 ~ N(a x, s2)`, `z1 | z2 ~ N(b x + c z2, s1)`."""

    a, b, c, s1, s2, slope = 0.6, 0.4, 0.3, 0.5, 0.7, 0.8

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.slope * z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.a * x, self.s2))
            pyro.sample("z1", dist.Normal(self.b * x + self.c * z2, self.s1))

    def kl(self, x):
        """`E_q[log q - log p]` of each site: for z1 the squared difference of locations is averaged over z2."""
        difference = (self.b + (self.c - self.slope) * self.a) * x
        spread = (self.c - self.slope) ** 2 * self.s2**2
        z1 = -math.log(self.s1) + (self.s1**2 + difference.square() + spread - 1) / 2
        return {"z2": kl_divergence(Normal(self.a * x, self.s2), Normal(0.0, 1.0)), "z1": z1}


class InTwo(LinearVAE):
    """The exact guide of a linear VAE of two latents, drawn as two sites, the second given the first."""

    def __init__(self):
        super().__init__(num_features=4, num_latents=2, guide="exact")

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = [pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("first", "second")]
            loc = torch.stack(torch.broadcast_tensors(*z), -1) @ self.weight.T + self.mean
            pyro.sample("x", dist.Normal(loc, self.log_sigma.exp()).to_event(1), obs=x)

    def guide(self, x):
        q = self.posterior(x)
        tril = q.scale_tril[0]
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Normal(q.loc[:, 0], tril[0, 0]))
            shift = tril[1, 0] * (first - q.loc[:, 0]) / tril[0, 0]
            pyro.sample("second", dist.Normal(q.loc[:, 1] + shift, tril[1, 1]))


def test_kl_is_the_closed_form():
    pair, x = LinearVAE(5, 3), torch.randn(20, 5)
    found = measured(pair, x)
    assert list(found) == ["z"]
    q = pair._q(x).base_dist
    assert_within_errors(found["z"].kl, kl_divergence(q, Normal(0.0, 1.0)).sum(-1))
    assert found["z"].kl.num_particles == NUM_SAMPLES
    assert found["z"].kl.estimate.dtype == torch.float64


def test_kl_of_each_site_of_a_hierarchy():
    pair, x = Chain(), 2 * torch.randn(20)
    found = measured(pair, x)
    for name, exact in pair.kl(x).items():
        assert_within_errors(found[name].kl, exact)


@pytest.mark.slow(36)
def test_its_error_is_what_repetitions_show():
    """The spread of 200 estimates; its own relative error is about `1 / sqrt(2 * 200)`."""
    pair, x = Chain(), torch.tensor([1.0])
    found = [measured(pair, x, num_samples=50, seed=seed)["z1"].kl for seed in range(200)]
    estimates, errors = (torch.stack([getattr(kl, name) for kl in found]) for name in ("estimate", "std_error"))
    assert abs(errors.square().mean().sqrt() / estimates.std() - 1) < 4 / (2 * 200) ** 0.5
    assert measured(pair, x, num_samples=1)["z1"].kl.std_error.isnan().all()


def test_what_is_measured_is_the_same_in_pieces(monkeypatch):
    """Chunks of ten data points and one draw."""
    pair, x = Chain(), 2 * torch.randn(25)
    monkeypatch.setattr("ppvae.inference.runtime.chunks.CPU_ELEMENTS", 1)
    found = measured(pair, x, num_samples=100)
    for name, exact in pair.kl(x).items():
        assert_within_errors(found[name].kl, exact)


def test_the_kls_are_what_the_elbo_pays():
    """`ELBO = E log p(x | z) - sum of KLs`: for the linear VAE all three in closed form."""
    pair = LinearVAE(4, 2).fit_guide()
    x = pair.sample(30)
    with torch.no_grad():
        q = pair._q(x).base_dist
        residual = (x - pair.mean - q.loc @ pair.weight.T).square().sum(-1)
        spread = (q.scale.square() @ pair.weight.T.square()).sum(-1)
        reconstruction = -(residual + spread) / 2 - 2 * math.log(2 * math.pi)
        assert_within_errors(measured(pair, x)["z"].kl, reconstruction - pair.exact_elbo(x))


@pytest.mark.slow(7)
def test_mutual_information_is_that_of_channels(assert_mean):
    """`I(x; z) = log det(W'W / sigma^2 + I) / 2` with q the posterior and x the model's own; over ten data sets."""
    pair = LinearVAE(4, 2, guide="exact")
    with torch.no_grad():
        pair.weight.copy_(torch.tensor([[0.8, 0.5], [0.0, 0.6], [-0.5, 0.3], [0.2, 0.0]]))
        exact = torch.logdet(pair.weight.T @ pair.weight + torch.eye(2)).item() / 2
    assert 0.3 < exact < 0.3 * math.log(200)
    found = [measured(pair, pair.sample(200), num_samples=2, seed=seed)["z"] for seed in range(10)]
    assert_mean(torch.tensor([usage.mutual_information for usage in found]), exact)
    assert {usage.most_information for usage in found} == {math.log(200)}


@pytest.mark.slow(11)
def test_mutual_information_of_a_site_is_with_the_data_alone(assert_mean):
    """`-log(var(z_l | x)) / 2` of each of two sites, whatever the other says too."""
    pair = InTwo()
    with torch.no_grad():
        pair.weight.mul_(0.6)
        exact = -pair.posterior(torch.zeros(1, 4)).covariance_matrix[0].diagonal().log() / 2
    found = [measured(pair, pair.sample_joint(200)["x"], num_samples=2, seed=seed) for seed in range(8)]
    for name, information in zip(("first", "second"), exact.tolist(), strict=True):
        assert_mean(torch.tensor([usage[name].mutual_information for usage in found]), information)


def test_mutual_information_is_that_of_the_mixture_over_the_data(assert_mean):
    """Of each site of a chain, by quadrature: the entropy of the mixture of its posteriors less their own."""
    pair, x = Chain(), torch.linspace(-6, 6, 30)
    loc, spread = pair.b * x + pair.c * pair.a * x, math.hypot(pair.s1, pair.c * pair.s2)
    found = [measured(pair, x, num_samples=2, seed=seed) for seed in range(20)]
    for name, q in {"z2": Normal(pair.a * x, pair.s2), "z1": Normal(loc, spread)}.items():
        z = torch.linspace(-15, 15, 20_001)
        density = q.log_prob(z[:, None]).exp().mean(-1)
        entropy = -torch.trapezoid(torch.special.xlogy(density, density), z)
        exact = (entropy - q.entropy().mean()).item()
        assert_mean(torch.tensor([usage[name].mutual_information for usage in found]), exact)


def test_a_site_that_follows_another_closely_is_told_of_the_data_only_what_it_knows(assert_mean):
    """Given the first, the second says nothing more about the data; but alone it says nearly as much."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x, 1.0))
            pyro.sample("z1", dist.Normal(z2, 0.5))

    pair, x = Chain(), torch.linspace(-6, 6, 30)
    pair.guide = guide
    found = [measured(pair, x, num_samples=2, seed=seed) for seed in range(20)]
    z = torch.linspace(-15, 15, 20_001)
    q = Normal(x, 1.25**0.5)
    density = q.log_prob(z[:, None]).exp().mean(-1)
    exact = (-torch.trapezoid(torch.special.xlogy(density, density), z) - q.entropy().mean()).item()
    estimates = torch.tensor([usage["z1"].mutual_information for usage in found])
    assert exact - 0.2 < estimates.mean() < exact + 4 * estimates.std() / 20**0.5


def test_information_of_sorted_data_is_that_of_shuffled_ones():
    """Not that of their first two hundred, which here are all alike."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1))

    pair = Pair.of(Shift().model, guide, torch.zeros(1))
    x = torch.arange(4.0).repeat_interleave(250)
    found = measured(pair, x)["z"].mutual_information
    assert found == pytest.approx(math.log(4), abs=0.03)


def test_no_more_than_the_number_of_data_points_can_be_told():
    """Posteriors so narrow that each draw tells its data point: log N, and of more than 200 points the first 200."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1e-6))

    pair = Shift()
    pair.guide = guide
    for num, most in ((1, 0.0), (7, math.log(7)), (230, math.log(200))):
        usage = measured(pair, torch.linspace(-1, 1, num), num_samples=2)["z"]
        assert usage.most_information == pytest.approx(most)
        assert usage.mutual_information == pytest.approx(most, abs=1e-9)


@pytest.mark.parametrize("num_samples", [20, 100])
def test_dimensions_that_the_guide_does_not_move_are_not_active(num_samples):
    """However noisy the means: two of five are moved, one by less than the threshold."""
    pair, x = LinearVAE(6, 5), torch.randn(400, 6)
    with torch.no_grad():
        pair.encoder.weight.zero_()
        pair.encoder.weight[torch.arange(3), torch.arange(3)] = torch.tensor(
            [1.0, 0.3, 0.03]
        )  # variances 1, .09, .0009
        pair.posterior_scale.fill_(math.log(math.expm1(1.0)))
    usage = measured(pair, x, num_samples)["z"]
    assert (usage.active_units, usage.num_units) == (2, 5)
    assert not usage.collapsed


@pytest.mark.parametrize(("num", "num_samples"), [(1, 100), (30, 1)])
def test_one_data_point_or_draw_cannot_tell_active_units(num, num_samples):
    usage = measured(LinearVAE(5, 2), torch.randn(num, 5), num_samples)["z"]
    assert (usage.active_units, usage.num_units) == (None, 2)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_noise_makes_no_dimension_active(scale):
    """Of a guide that is the prior, of any scale; while one dimension that is moved by as much is told."""
    moved = torch.tensor([1.0] + [0.0] * 19)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), scale).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(scale * moved * x, scale).to_event(1))

    x = torch.randn(15, 1)
    found = [measured(Pair.of(model, guide, x), x, 30, seed)["z"].active_units for seed in range(10)]
    assert sum(each > 1 for each in found) <= 4  # of 190 that are not moved, at three errors
    assert all(each >= 1 for each in found)


def test_a_guide_that_is_the_prior_has_collapsed():
    pair = LinearVAE(5, 2)
    with torch.no_grad():
        pair.encoder.weight.zero_()
        pair.encoder.bias.zero_()
        pair.posterior_scale.fill_(math.log(math.expm1(1.0)))
    usage = measured(pair, torch.randn(30, 5))["z"]
    assert usage.collapsed
    assert usage.kl.estimate.abs().max() < 1e-12
    assert abs(usage.mutual_information) < 1e-12
    assert usage.active_units == 0


@pytest.mark.parametrize("shift", [0.1, 2.0])
def test_a_latent_of_few_data_points_has_not_collapsed_if_they_use_it(shift):
    """Three of a hundred have it, for a KL of `shift^2 / 2` each, and say so beside a latent that all have."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=there):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(1.0)) * x, 0.5))
            with poutine.mask(mask=there):
                pyro.sample("w", dist.Normal(shift, 1.0))

    batch = {"x": torch.randn(100), "there": torch.arange(100) < 3}
    pair = Pair.of(model, guide, batch)
    report = ppvae.gap(pair, batch, "quick", seed=0, progress=False)
    assert report.latents["w"].kl.mean().estimate == pytest.approx(0.03 * shift**2 / 2, abs=0.01)
    assert report.latents["w"].collapsed == (shift < 1)
    assert ("Unused: w" in report.verdict()) == (shift < 1)


def test_sites_that_a_summation_ties_to_the_observation_are_left_out():
    """Their part of log p is not their own; sites of the guide that it leaves alone, or ties to latents, stay."""
    expected = {
        "tied by summation": [],
        "mixture prior": ["z"],
        "discrete above continuous": ["c", "z"],
        "hierarchy": ["z1", "z2"],
        "no latents": [],
        "summed": [],
        "mixture": ["component"],
    }
    for name, sites in expected.items():
        pair, batch = ZOO[name].make()
        assert sorted(measured(pair, batch, num_samples=5)) == sites


def _sometimes_there(scale, by_site=False):
    """`w ~ N(0, 1)`, guided by `N(sqrt(1 - scale^2) x, scale)`, for some rows only; for others the guide draws 5."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Bernoulli(0.5 + 0 * x))
            pyro.sample("w", dist.Normal(0 * x, 1.0).mask(s > 0 if by_site else there))
            pyro.sample("x", dist.Normal(0 * x, 1.0), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Bernoulli(0.5 + 0 * x))
            at = s > 0 if by_site else there
            fn = dist.Normal(torch.where(at, math.sqrt(1 - scale**2) * x, 5.0), torch.where(at, scale, 0.1))
            pyro.sample("w", fn.mask(at))

    return Pair.of(model, guide, (torch.zeros(1), torch.tensor([True])))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_rows_without_a_latent_say_nothing_of_its_use(scale):
    """As many rows without it halve its KL and its information, and move no dimension."""
    x, there = torch.randn(100), torch.arange(100) % 2 == 0
    some = measured(_sometimes_there(scale), (x, there))["w"]
    alone = measured(_sometimes_there(scale), (x[there], there[there]))["w"]
    assert some.active_units == alone.active_units == (scale < 1)
    assert some.kl.mean().estimate == pytest.approx(alone.kl.mean().estimate / 2, abs=0.02)
    assert some.mutual_information == pytest.approx(alone.mutual_information / 2, abs=0.1)
    assert some.mutual_information == pytest.approx(-math.log(scale) / 2, abs=0.1)


def test_a_latent_that_another_masks_has_no_information_of_its_own():
    usage = measured(_sometimes_there(1.0, by_site=True), (torch.randn(50), torch.ones(50, dtype=torch.bool)))
    assert math.isnan(usage["w"].mutual_information)
    assert usage["w"].active_units == 0
    assert usage["s"].mutual_information == pytest.approx(0.0, abs=1e-9)


def test_kl_of_a_discrete_site():
    """A categorical's, drawn: `sum q (log q - log p)`."""
    pair, x = ZOO["amortized mixture"].make()
    log_q = pair._log_guide(x).detach()
    exact = (log_q.exp() * (log_q - pair.logits.detach().log_softmax(0))).sum(-1)
    assert_within_errors(measured(pair, x)["component"].kl, exact)
