"""The width of a Gaussian likelihood against formulas for the linear VAE, and against the ELBO after rescaling."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.zoo import ZOO

from ppvae import Pair, gap
from ppvae.inference.ledger.likelihood_scale import likelihood_scale
from ppvae.inference.runtime.measuring import measuring
from ppvae.models import LinearVAE

NUM_FEATURES, NUM_DRAWS, SHIFT = 6, 50, 0.7


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


def measured(pair, data, num_draws=NUM_DRAWS, seed=0):
    with measuring(pair, data, seed) as batch:
        return likelihood_scale(pair, batch, num_draws)


@pytest.fixture
def widened():
    """A linear VAE with its exact guide, data simulated at sigma = 1, and then sigma raised by `exp(0.7)`."""
    pair = LinearVAE(NUM_FEATURES, 2, guide="exact")
    x = pair.sample(300)
    with torch.no_grad():
        pair.log_sigma.add_(SHIFT)
    return pair, x


@torch.no_grad()
def expected_square(pair, x):
    """`E_q |x - W z - mean|^2 / (D sigma^2)`, averaged over x."""
    q = pair.posterior(x)
    residual = x - pair.mean - q.loc @ pair.weight.T
    spread = (pair.weight @ q.covariance_matrix @ pair.weight.T).diagonal(dim1=-2, dim2=-1)
    return ((residual.square() + spread).mean() / (2 * pair.log_sigma).exp()).item()


class Held(Pair):
    """The model of one pair under the guide of another."""

    def __init__(self, model, guide):
        super().__init__()
        self.model, self.guide = model.model, guide.guide


def elbos(pair, factor, x, num_draws):
    """Of the pair with its likelihood's scale times a factor, under the guide as it is, with the same noise."""
    other = LinearVAE(NUM_FEATURES, 2, guide="exact")
    other.load_state_dict(pair.state_dict())
    with torch.no_grad():
        other.log_sigma.add_(math.log(factor))
        torch.manual_seed(5)
        return Held(other, pair).log_weights(x, num_draws).log_w


def test_factor_and_gain_are_the_formulas(widened):
    """Over seeds, with r in closed form: `sqrt(r)`, and a little less than the gain on the same data."""
    pair, x = widened
    r = expected_square(pair, x)
    assert r < 0.6  # the likelihood is too wide by far
    found = [measured(pair, x, num_draws=30, seed=seed)["x"] for seed in range(20)]
    squares = torch.tensor([each.factor for each in found]).square()
    assert abs(squares.mean() - r) < 4 * squares.std() / len(squares) ** 0.5
    for each in found:
        own = each.factor**2
        in_sample = NUM_FEATURES / 2 * (own - 1 - math.log(own))
        assert 0.99 * in_sample < each.gain < in_sample


def test_the_gain_is_what_rescaling_gains(widened):
    """And no other factor gains as much."""
    pair, x = widened
    found = measured(pair, x)["x"]
    before = elbos(pair, 1.0, x, NUM_DRAWS)
    gains = (elbos(pair, found.factor, x, NUM_DRAWS) - before).mean(1)
    std_error = gains.std() / NUM_DRAWS**0.5  # over draws for the whole of the data, as the factor's is
    assert abs(gains.mean() - found.gain) < 4 * 2**0.5 * std_error
    assert found.gain > 20 * std_error
    for other in (0.9, 1.1):
        assert (elbos(pair, other * found.factor, x, NUM_DRAWS) - before).mean() < gains.mean()


def test_a_likelihood_as_wide_as_its_residuals_gains_nothing(widened):
    """The exact guide at the maximum likelihood: there `r` is 1, as the EM algorithm stays where it is."""
    pair, x = widened
    pair.fit_closed_form(x)
    assert expected_square(pair, x) == pytest.approx(1.0, abs=1e-12)
    found = measured(pair, x)["x"]
    noise = 4 * (2 / (NUM_FEATURES * NUM_DRAWS * len(x))) ** 0.5  # of r, were all residuals independent
    assert abs(found.factor**2 - 1) < noise
    assert found.gain < NUM_FEATURES * noise**2 / 4 * 1.1


@pytest.mark.parametrize(("num_features", "num_latents"), [(6, 2), (20, 8)])
def test_what_few_data_gain_by_chance_is_not_promised(num_features, num_latents):
    """Sigma is right, yet 25 data points prefer another: its gain on the others is negative in the mean."""
    gains, in_sample, errors = [], [], []
    for seed in range(40):
        torch.manual_seed(seed)
        pair = LinearVAE(num_features, num_latents, guide="exact")
        found = measured(pair, pair.sample(25))["x"]
        r = found.factor**2
        gains.append(found.gain)
        errors.append(found.std_error)
        in_sample.append(num_features / 2 * (r - 1 - math.log(r)))
    gains, in_sample, errors = map(torch.tensor, (gains, in_sample, errors))
    assert in_sample.mean() > 4 * in_sample.std() / 40**0.5  # as always
    assert gains.mean() < 2 * gains.std() / 40**0.5
    assert (gains > 2 * errors).double().mean() <= 0.05 + 3 * (0.05 * 0.95 / 40) ** 0.5


def test_one_data_point_far_out_is_no_reason_to_widen():
    """A single residual of thirty standard deviations raises r tenfold; the other data would lose by that."""
    pair = LinearVAE(NUM_FEATURES, 2, guide="exact")
    x = pair.sample(100)
    x[0] += 30 * pair.log_sigma.detach().exp()
    found = measured(pair, x)["x"]
    assert found.factor > 1.5
    assert found.gain < 0


def test_one_data_point_cannot_tell():
    pair = LinearVAE(NUM_FEATURES, 2, guide="exact")
    report = gap(pair, pair.sample(1), effort="quick", seed=0, progress=False)
    assert math.isnan(report.likelihood["x"].gain)
    assert "likelihood scale of 'x' (one data point cannot tell)" in report.verdict()


def test_each_gaussian_site_has_its_own():
    """One too wide by two, one too narrow by four; images count all their pixels; a coin has none."""

    class Two(Pair):
        def model(self, x, y, coin):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(torch.zeros(2, 3), 2.0).to_event(2), obs=x)
                pyro.sample("y", dist.Normal(0.0, 0.25), obs=y)
                pyro.sample("coin", dist.Bernoulli(0.5), obs=coin)

        def guide(self, x, y, coin):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    batch = {"x": torch.randn(40, 2, 3), "y": torch.randn(40), "coin": torch.ones(40)}
    found = measured(Two(), batch)
    assert found.keys() == {"x", "y"}
    for name, scale, num in (("x", 2.0, 6), ("y", 0.25, 1)):
        r = (batch[name] / scale).square().mean().item()
        assert found[name].factor == pytest.approx(r**0.5, rel=1e-12)
        own = (batch[name] / scale).square().reshape(40, -1).mean(1)
        gains = [
            num / 2 * (own[i] * (1 - 1 / s) - s.log()) for i in range(40) for s in [own[torch.arange(40) != i].mean()]
        ]
        assert found[name].gain == pytest.approx(torch.stack(gains).mean().item(), rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_a_poor_guide_is_not_blamed_on_the_likelihood(shift):
    """Sigma is that of the data: whatever the guide, its weighted draws say so, or that they cannot tell."""
    pair = LinearVAE(NUM_FEATURES, 2).fit_guide()
    x = pair.sample(500)
    with torch.no_grad():
        pair.encoder.bias.add_(shift * pair.posterior_scale)
    found = measured(pair, x, num_draws=1000)["x"]
    assert shift < 1 or math.isnan(found.gain) or found.gain < 0.05
    assert shift > 1 or abs(found.gain) < 0.02
    assert shift > 1 or abs(found.factor - 1) < 4 / (2 * NUM_FEATURES * 500) ** 0.5


@pytest.mark.slow(10)
def test_errors_are_what_repetitions_show(widened):
    pair, x = widened
    found = [measured(pair, x, num_draws=30, seed=seed)["x"] for seed in range(100)]
    gains = torch.tensor([each.gain for each in found])
    error = torch.tensor([each.monte_carlo_error for each in found]).square().mean().sqrt()
    assert abs(gains.std() / error - 1) < 4 / 200**0.5


@pytest.mark.parametrize("name", ["bernoulli", "no latents", "mixture", "tied by summation", "summed"])
def test_what_is_not_gaussian_or_is_summed_over_has_none(name):
    pair, batch = ZOO[name].make()
    assert measured(pair, batch) == {}


@pytest.mark.slow(7)
def test_data_are_weighed_alike_in_chunks_of_any_size(widened, monkeypatch):
    """Within the noise of draws; a data point counts once, in the last, smaller chunk too."""
    pair, x = widened
    x = torch.cat([x[:10], 5 * x[10:13]])
    whole = [measured(pair, x, seed=seed)["x"].factor for seed in range(8)]
    monkeypatch.setattr("ppvae.inference.runtime.chunks.CPU_ELEMENTS", 1)
    pieces = [measured(pair, x, seed=seed)["x"].factor for seed in range(8)]
    difference = torch.tensor(whole) - torch.tensor(pieces)
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


class Gaps(Pair):
    """Numbers of which a mask says which are there, by a handler or by the distribution's own mask."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def model(self, x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            numbers = dist.Normal(torch.zeros(3), 2.0)
            if self.how == "handler":
                with poutine.mask(mask=there.all(-1)):
                    pyro.sample("x", numbers.to_event(1), obs=x)
            else:
                pyro.sample("x", numbers.expand(x.shape).mask(there).to_event(1), obs=x)

    def guide(self, x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))


def by_hand(squares, there):
    """The factor and the gain of known squares, `[N, D]`."""
    sums, nums = (squares * there).sum(1), there.sum(1)
    gains = []
    for i in range(len(sums)):
        others = torch.arange(len(sums)) != i
        s = sums[others].sum() / nums[others].sum()
        gains.append((sums[i] * (1 - 1 / s) - nums[i] * s.log()) / 2)
    return (sums.sum() / nums.sum()).sqrt().item(), torch.stack(gains).mean().item()


@pytest.mark.parametrize("placeholder", [0.0, 1e3])
@pytest.mark.parametrize("how", ["handler", "own"])
def test_what_is_masked_is_no_residual(how, placeholder):
    """Whole rows, or single numbers: what stands in their place does not matter."""
    x, there = torch.randn(60, 3), torch.rand(60, 3) < 0.5
    there = there[:, :1].expand(60, 3).contiguous() if how == "handler" else there
    found = measured(Gaps(how), {"x": torch.where(there, x, placeholder), "there": there})["x"]
    factor, gain = by_hand((x / 2).square(), there)
    assert found.factor == pytest.approx(factor, rel=1e-10)
    assert found.gain == pytest.approx(gain, rel=1e-9)


def test_rows_without_the_site_gain_nothing(widened):
    """Beside data that have it, as many without halve the gain and leave the factor."""
    pair, x = widened
    with_it = measured(pair, x)["x"]

    class HalfMasked(Pair):
        def model(self, x, there):
            with poutine.mask(mask=there):
                pair.model(x)

        def guide(self, x, there):
            with poutine.mask(mask=there):
                pair.guide(x)

    there = torch.arange(600) < 300
    masked = measured(HalfMasked(), {"x": torch.cat([x, 0 * x]), "there": there})["x"]
    assert masked.factor == pytest.approx(with_it.factor, rel=0.01)
    assert masked.gain == pytest.approx(with_it.gain / 2, rel=0.02)


@pytest.mark.parametrize(("num", "why"), [(0, "no data point has it"), (1, "one data point cannot tell")])
def test_what_too_few_data_points_have_is_undefined(num, why):
    there = (torch.arange(20) < num)[:, None].expand(20, 3).contiguous()
    report = gap(Gaps("handler"), {"x": torch.randn(20, 3), "there": there}, "quick", seed=0, progress=False)
    assert math.isnan(report.likelihood["x"].gain)
    assert f"likelihood scale of 'x' ({why})" in report.verdict()
