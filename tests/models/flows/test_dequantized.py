"""Dequantization against discrete distributions known by enumeration."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import AffineTransform, CumulativeDistributionTransform, SigmoidTransform

import ppvae
from ppvae import ContractError
from ppvae.datasets import bits_per_dim, dequantize
from ppvae.inference import ELBO
from ppvae.models import CouplingFlow, Dequantized, DiagonalNormal, Flow, Glow, RealNVP

LEVELS = 4


@pytest.fixture
def every():
    """All images of two pixels, [16, 2]."""
    return torch.cartesian_prod(*[torch.arange(LEVELS)] * 2) / (LEVELS - 1)


class Histogram(nn.Module):
    """A density on the unit square that is flat in each cell: P(x) is a table."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(LEVELS**2))

    def forward(self):
        return Flat(self.logits)


class Flat(dist.TorchDistribution):
    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.independent(dist.constraints.unit_interval, 1)

    def __init__(self, logits):
        self.logits = logits
        super().__init__(event_shape=(2,), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Flat(self.logits)

    def log_prob(self, y):
        cell = (y * LEVELS).floor().clamp(0, LEVELS - 1).long()
        return self.logits.log_softmax(0)[cell[..., 0] * LEVELS + cell[..., 1]] + 2 * math.log(LEVELS)


class Normal(nn.Module):
    """Independent normals, as logits: P(x) is a product of differences of the distribution function."""

    def __init__(self):
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.tensor([-0.5, 1.0])), 0.8

    def forward(self):
        return dist.Normal(self.loc, self.scale).to_event(1)

    def quantiles(self, x):
        """Of the ends of the cells of images."""
        low = (x * (LEVELS - 1)).round() / LEVELS
        normal = dist.Normal(self.loc, self.scale)
        return normal.cdf(low.logit()), normal.cdf((low + 1 / LEVELS).logit())

    def log_probability(self, x):
        first, last = self.quantiles(x)
        return (last - first).log().sum(-1)


class Truncated(nn.Module):
    """The exact posterior of `Normal`, as the place in the cell before its sigmoid."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        first, last = self.base.quantiles(x)
        low = (x * (LEVELS - 1)).round() / LEVELS
        return dist.TransformedDistribution(
            dist.Uniform(torch.zeros_like(x), 1.0).to_event(1),
            [
                AffineTransform(first, last - first, cache_size=1),
                CumulativeDistributionTransform(dist.Normal(self.base.loc, self.base.scale), cache_size=1).inv,
                SigmoidTransform(cache_size=1),
                AffineTransform(-low * LEVELS, LEVELS, cache_size=1),
                SigmoidTransform(cache_size=1).inv,
            ],
        )


@pytest.mark.slow(3)
@pytest.mark.usefixtures("float64")
def test_uniform_noise_is_exact_for_a_density_that_is_flat_in_each_cell(every):
    base = Histogram()
    pair, exact = Dequantized(Flow(base, [SigmoidTransform().inv]), LEVELS), base.logits.log_softmax(0)
    torch.testing.assert_close(pair.log_weights(every, 5).log_w, exact.expand(5, -1))
    bits = bits_per_dim(ppvae.log_evidence(pair, every).estimate, num_features=2)
    entropy = dist.Categorical(logits=base.logits).entropy() / (2 * math.log(2))
    torch.testing.assert_close((exact.exp() * bits).sum(), entropy)


@pytest.mark.usefixtures("float64")
def test_the_bounds_lie_below_and_the_perfect_dequantizer_reaches(every, assert_mean):
    base = Normal()
    flow, exact = Flow(base, []), base.log_probability(every).detach()
    perfect, uniform = Dequantized(flow, LEVELS, Truncated(base)), Dequantized(flow, LEVELS)
    with torch.no_grad():
        torch.testing.assert_close(perfect.log_weights(every, 5).log_w, exact.expand(5, -1), atol=1e-6, rtol=1e-6)
        log_w = uniform.log_weights(every, 40_000).log_w
    assert_mean((log_w - exact).exp(), 1.0)  # weights of P(x)
    grid = (torch.arange(20_000) + 0.5) / 20_000
    low = (every * (LEVELS - 1)).round() / LEVELS
    y = (low[..., None] + grid / LEVELS).detach()
    density = dist.Normal(base.loc[:, None], base.scale).log_prob(y.logit()) - (y * (1 - y)).log()
    elbo = density.mean(-1).sum(-1).detach() - 2 * math.log(LEVELS)
    assert_mean(log_w, elbo)  # by quadrature
    iwae = log_w.reshape(4000, 10, -1).logsumexp(1) - math.log(10)
    assert (elbo < iwae.mean(0)).all()
    assert (iwae.mean(0) < exact + 4 * iwae.std(0) / 4000**0.5).all()
    probability = exact.exp()
    assert bits_per_dim((probability * elbo).sum(), 2) > bits_per_dim((probability * exact).sum(), 2) + 0.05


@pytest.mark.slow(4)
@pytest.mark.usefixtures("float64")
def test_learned_noise_closes_the_gap_of_uniform_noise(every):
    base = Normal()
    flow = Flow(base, []).requires_grad_(False)
    weights = base.log_probability(every).exp()
    x = every[torch.multinomial(weights, 400, replacement=True)]
    pair = Dequantized(flow, LEVELS, CouplingFlow(ppvae.networks.mlp(2, [32], 4), 2, num_couplings=2, num_hidden=32))
    exact = base.log_probability(x).mean()
    uniform = exact - ppvae.elbo(Dequantized(flow, LEVELS), x, seed=0).mean().estimate
    ppvae.fit(pair, x, steps=500, batch_size=100, lr=0.01, progress=False, compile=False)
    learned = exact - ppvae.elbo(pair, x, seed=0).mean().estimate
    assert 0 < learned < uniform / 5


@pytest.mark.usefixtures("float64")
def test_uniform_noise_is_what_dequantize_draws(every, assert_mean):
    """The ELBO in nats of a probability, and the density of dequantized data less D log levels, are the same."""
    flow = RealNVP(2, hidden=[8])
    with torch.no_grad():
        of_pair = Dequantized(flow, LEVELS).log_weights(every, 20_000).log_w
        y = dequantize(every.repeat(20_000, 1), LEVELS)
        log_p = flow.log_prob(y.logit()) - (y * (1 - y)).log().sum(-1)
        of_data = log_p.reshape(20_000, -1) - 2 * math.log(LEVELS)
    assert_mean(of_pair - of_data, 0.0)


@pytest.mark.usefixtures("float64")
def test_sampling_gives_levels_as_often_as_their_probability(every):
    base = Normal()
    x = Dequantized(Flow(base, []), LEVELS).sample(20_000)
    drawn = ((x[:, None] - every).abs() < 1e-3).all(-1).double()
    frequency, exact = drawn.mean(0), base.log_probability(every).exp()
    assert exact.sum().item() == pytest.approx(1)
    assert ((frequency - exact).abs() < 4.5 * (exact / 20_000).sqrt()).all()
    assert drawn.sum() == 20_000


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("posterior", [None, "normal"])
def test_draws_stay_in_their_cells_in_single_precision(levels, posterior):
    x = torch.arange(levels).repeat(200_000 // levels).reshape(-1, 2) / (levels - 1)
    encoder = nn.Linear(2, 4)
    encoder.bias.data = torch.tensor([0.0, 0.0, 9.0, 9.0])  # sigma 9: nearly all draws are at the cells' ends
    pair = Dequantized(RealNVP(2, hidden=[4]), levels, DiagonalNormal(encoder) if posterior else None)
    with torch.no_grad():
        weights = pair.log_weights(x)
        assert weights.log_p.isfinite().all()
        assert weights.log_q.isfinite().all()
        assert torch.equal(pair.reconstruct(x), x)


def test_images_and_their_start():
    x = torch.randint(0, 17, (60, 1, 4, 4)) / 16
    glow = Glow((1, 4, 4), num_levels=1, num_steps=2, num_hidden=4)
    pair = Dequantized(glow, 17, CouplingFlow(nn.Linear(16, 32), 16, num_hidden=16)).init_from(x)
    assert torch.allclose(glow.transforms[-1].loc, torch.tensor(0.0), atol=0.5)  # of logits of uniform numbers
    assert torch.allclose(glow.transforms[-1].log_scale.exp(), torch.tensor(math.pi / 3**0.5), atol=0.4)
    assert pair.sample(3).shape == (3, 1, 4, 4)
    before = ppvae.elbo(pair, x, seed=0).mean().estimate
    ppvae.fit(pair, x, ELBO(), steps=30, batch_size=30, lr=5e-3, progress=False)
    assert ppvae.elbo(pair, x, seed=0).mean().estimate > before + 1


@pytest.mark.slow(5)
@pytest.mark.usefixtures("float64")
def test_evidence_by_weights_and_by_chains_is_the_integral_over_the_cell(every):
    pair = Dequantized(RealNVP(2, hidden=[8]), LEVELS)
    for p in pair.parameters():
        p.data += 0.5 * torch.randn(p.shape)
    within = (torch.cartesian_prod(*[torch.arange(100)] * 2) + 0.5) / 100
    y = ((every * (LEVELS - 1)).round()[:, None] + within) / LEVELS
    with torch.no_grad():
        density = (pair.flow.log_prob(y.logit()) - (y * (1 - y)).log().sum(-1)).exp()
        exact = density.mean(1).log() - 2 * math.log(LEVELS)
    chains = ppvae.AIS(num_chains=50, num_temperatures=20)
    for method in ("iwae", "ais"):
        found = ppvae.log_evidence(pair, every, method, annealing=chains, seed=0, progress=False)
        off = (found.estimate - exact).abs() > 4.5 * found.std_error + 1e-4
        assert not off[found.reliable].any()
        assert found.reliable.sum() > 6  # of 16; k-hats of weights go up to 7


@pytest.mark.slow(6)
def test_chains_from_a_prior_without_a_way_to_the_posterior_are_left_out(every):
    """Most of what the prior draws is in other cells, where the model gives x no probability."""
    pair, x = Dequantized(RealNVP(2, hidden=[8]), LEVELS), every[:4].float()
    prior = ppvae.AIS(num_chains=4, num_temperatures=20, start="prior")
    with pytest.raises(ContractError, match=r"draws from the prior under which x has no .* use AIS\(start='guide'\)"):
        ppvae.log_evidence(pair, x, "ais", annealing=prior, progress=False)
    guide = ppvae.AIS(num_chains=4, num_temperatures=20)
    best = ppvae.log_evidence(pair, x, "best", annealing=[prior, guide], progress=False)
    assert set(best.candidates) == {"iwae", "ais"}
    assert "ais from prior does not apply: start: found draws from the prior" in best.reason
    alone = ppvae.log_evidence(pair, x, "best", annealing=prior, progress=False)
    assert alone.methods == ("iwae",) * 4
    assert alone.reason.startswith("iwae, as ais from prior does not apply")


def test_refuses():
    with pytest.raises(ValueError, match="levels: found 1, expected 2 or more"):
        Dequantized(RealNVP(2), levels=1)
    pair = Dequantized(RealNVP(2, hidden=[4]), levels=17)
    with pytest.raises(ppvae.ContractError, match="site 'x': found log probability -inf at row 0"):
        ppvae.fit(pair, torch.tensor([[0.5, 0.3]]), steps=1, progress=False)
    pair.check(torch.arange(34).reshape(17, 2) % 17 / 16)
