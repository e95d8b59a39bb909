"""Pairs of autoregressive distributions: without latents, as a likelihood, and as a prior of codes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.masked_networks import NETWORKS, everything, moved
from torch import nn
from torch.testing import assert_close

import ppvae
from ppvae.models import (
    MADE,
    VAE,
    Autoregressive,
    AutoregressiveFlowPrior,
    AutoregressiveLikelihood,
    AutoregressivePair,
    AutoregressivePrior,
    ConditionallyIndependent,
    DiagonalNormal,
    GatedPixelCNN,
    MarkovHVAE,
    MaskedNetwork,
    PixelCNN,
    StandardNormal,
)

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_evidence_of_the_pair_is_exact_and_the_gap_zero(name):
    pair = AutoregressivePair(moved(name))
    x = pair.sample(10)
    evidence, elbo = ppvae.log_evidence(pair, x, **quiet), ppvae.elbo(pair, x, 3, **quiet)
    assert evidence.method == "exact"
    assert_close(evidence.estimate, Autoregressive(pair.network).log_prob(x))
    assert_close(elbo.estimate, evidence.estimate)
    assert ppvae.gap(pair, x, "quick", **quiet).mean().estimate == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "MADE, ordered",
        pytest.param("PixelCNN", marks=pytest.mark.slow(3)),
        pytest.param("Gated PixelCNN of codes", marks=pytest.mark.slow(3)),
    ],
)
def test_training_finds_the_distribution_of_the_data(name):
    """From draws of one network another is trained: its divergence from the first falls to a fifth."""
    truth, pair = AutoregressivePair(moved(name, 1)), AutoregressivePair(moved(name, 2))
    x = truth.sample(2000)
    everywhere = everything(truth.network)
    log_p = truth.log_prob(everywhere).detach()

    def divergence():
        return (log_p.exp() * (log_p - pair.log_prob(everywhere).detach())).sum().item()

    before = divergence()
    ppvae.fit(pair.init_from(x), x, epochs=15, batch_size=100, lr=2e-2, **quiet)
    assert 0 < divergence() < before / 5


def test_a_pixel_vae_that_ignores_its_latents_is_a_pixelcnn():
    """Its evidence, by importance weights, is that of the network without the condition, its KL and gap are zero."""
    network = moved("Gated PixelCNN", num_condition=3)
    for name, p in network.named_parameters():
        if "condition" in name:
            p.data.zero_()
    alone = moved("Gated PixelCNN")
    alone.load_state_dict({name: p for name, p in network.state_dict().items() if "condition" not in name})
    decoder = nn.Sequential(nn.Linear(2, 27), nn.Unflatten(-1, (3, 3, 3)))
    encoder = nn.Sequential(nn.Flatten(-3), nn.Linear(9, 4))
    pair = VAE(StandardNormal(2), AutoregressiveLikelihood(decoder, network), DiagonalNormal(encoder))
    encoder[1].weight.data.zero_()
    encoder[1].bias.data = torch.tensor([0.0, 0.0, *[torch.tensor(1.0).expm1().log()] * 2])
    x = pair.sample(20)
    exact = AutoregressivePair(alone).log_prob(x)
    for estimate in (ppvae.log_evidence(pair, x, "iwae", 5, **quiet), ppvae.elbo(pair, x, 5, **quiet)):
        assert_close(estimate.estimate, exact.detach())
    terms = ppvae.elbo_terms(pair, x, 5, **quiet)
    assert_close(terms.latents["z"].kl.estimate, torch.zeros(20), atol=1e-12, rtol=0)


def test_a_pixel_vae_that_uses_a_bit_of_its_latents(assert_mean):
    """Its evidence by integrating over z on a grid."""
    network = moved("Gated PixelCNN", num_condition=2)
    decoder = nn.Sequential(nn.Linear(1, 2), nn.Unflatten(-1, (2, 1, 1)))
    encoder = nn.Sequential(nn.Flatten(-3), nn.Linear(9, 2))
    pair = VAE(StandardNormal(1), AutoregressiveLikelihood(decoder, network), DiagonalNormal(encoder)).eval()
    x = pair.sample(6)
    z = torch.linspace(-8, 8, 2001)
    with torch.no_grad():
        log_p = pair.likelihood(z[:, None, None]).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z)[:, None]
        exact = torch.logsumexp(log_p, 0) + torch.tensor(16 / 2000).log()
        weights = pair.log_weights(x, num_particles=4000).log_w
    assert pair.particles == "leading"
    assert_mean((weights - exact).exp(), 1.0)


def flow_prior(num_latents, num_condition=0):
    prior = AutoregressiveFlowPrior(num_latents, [7, 9], num_condition)
    for p in prior.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return prior


def test_a_flow_prior_starts_as_the_standard_normal():
    z = torch.randn(6, 3)
    assert_close(AutoregressiveFlowPrior(3)().log_prob(z), StandardNormal(3)().log_prob(z))


def test_a_flow_prior_is_a_change_of_variables():
    """`log N(e) + log |det de/dz|`, `e = (z - mu) / sigma`, whose Jacobian is lower triangular; h moves it."""
    prior = flow_prior(4, num_condition=2)
    h = torch.randn(3, 2)

    def noise(z, h):
        each = prior.of_each(z, h)
        return (z - each.loc) / each.scale

    for one, z in zip(h, torch.randn(3, 4), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z, one=one: noise(z, one), z)
        assert not jacobian.triu(1).any()
        assert (jacobian.tril(-1) != 0).sum() == 6, "each depends on all before it"
        log_normal = dist.Normal(0.0, 1.0).log_prob(noise(z, one)).sum()
        assert_close(prior(one).log_prob(z), log_normal + torch.linalg.slogdet(jacobian).logabsdet)
    assert prior(h).log_prob(z).unique().numel() == 3


def test_a_flow_priors_draws_are_its_own(assert_mean):
    """Undone, they are standard normal."""
    prior = flow_prior(3, num_condition=2)
    h = torch.randn(2)
    z = prior(h).sample((20_000,))
    each = prior.of_each(z, h)
    e = ((z - each.loc) / each.scale).detach()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert_mean(e**power, torch.full((3,), moment), k=4.5)
    products = torch.stack([e[:, 0] * e[:, 1], e[:, 0] * e[:, 2], e[:, 1] * e[:, 2]], -1)
    assert_mean(products, torch.zeros(3), k=4.5)


@pytest.mark.slow(8)
def test_a_hierarchical_pixel_vae(assert_mean):
    """Autoregressive p(z1 | z2) and p(x | z1): its evidence by integrating over both layers on a grid."""
    network = moved("Gated PixelCNN", num_condition=2)
    decoder = nn.Sequential(nn.Linear(2, 2), nn.Unflatten(-1, (2, 1, 1)))
    encoders = [DiagonalNormal(nn.Sequential(nn.Flatten(-3), nn.Linear(9, 2 * size))) for size in (2, 1)]
    for encoder in encoders:
        encoder.network[1].bias.data[len(encoder.network[1].bias) // 2 :] += 1.0  # wide, so that no weight is large
    pair = MarkovHVAE(
        StandardNormal(1),
        [flow_prior(2, num_condition=1)],
        AutoregressiveLikelihood(decoder, network),
        ConditionallyIndependent(encoders),
    ).eval()
    x = pair.sample(4)
    top, axis = torch.linspace(-6, 6, 61), torch.linspace(-9, 9, 61)
    z1 = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_prior = (
            pair.transitions[0](top[:, None, None]).log_prob(z1) + dist.Normal(0.0, 1.0).log_prob(top)[:, None]
        ).logsumexp(0)
        assert log_prior.logsumexp(0).add(torch.tensor(12 / 60 * (18 / 60) ** 2).log()).abs() < 1e-3
        log_p = pair.likelihood(z1[:, None]).log_prob(x) + log_prior[:, None]
        exact = log_p.logsumexp(0) + torch.tensor(12 / 60 * (18 / 60) ** 2).log()
        weights = pair.log_weights(x, num_particles=20_000).log_w
    assert_mean((weights - exact).exp(), 1.0)
    assert pair.particles == "leading"


def test_reconstructions_are_means_of_draws(assert_mean):
    """Of one entry, given z: its probability, which the first entry of the order has in closed form."""
    likelihood = AutoregressiveLikelihood(nn.Linear(1, 4), MADE(2, 3, [8], [1, 0], num_condition=4))
    pair = VAE(StandardNormal(1), likelihood, DiagonalNormal(nn.Linear(2, 2)))
    x = pair.sample(3)
    pair.posterior.network.bias.data[1] = -40.0
    z = pair.latents(x)["z"][0]
    logits = likelihood.network(torch.zeros(3, 2), likelihood.decoder(z))[:, 1]
    draws = torch.stack([pair.reconstruct(x)[:, 1] for _ in range(200)])
    assert set(draws.unique().tolist()) == {0.0, 0.5, 1.0}
    assert_mean(draws, (logits.softmax(-1) @ torch.tensor([0.0, 0.5, 1.0])).detach())
    many = pair.reconstruct(x, num_particles=2000)[:, 1]
    error = draws.std(0) / 2000**0.5
    assert ((many - (logits.softmax(-1) @ torch.tensor([0.0, 0.5, 1.0]))).abs() < 4 * error).all()


def test_codes_have_no_mean():
    pair = AutoregressivePair(PixelCNN((2, 2), 3, 8, 1))
    with pytest.raises(NotImplementedError, match="site 'x' has no mean, as Autoregressive has none"):
        pair.reconstruct(pair.sample(2))


class Coded(ppvae.Pair):
    """A map of four codes that is drawn from a learned prior, and seen through noise; guided by independent codes."""

    def __init__(self):
        super().__init__()
        self.prior = AutoregressivePrior(moved("Gated PixelCNN of codes"))
        self.values = nn.Parameter(torch.tensor([-1.0, 0.0, 1.5]))
        self.encoder = nn.Linear(6, 18)
        self.example = torch.zeros(1, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", self.prior())
            pyro.sample("x", dist.Normal(self.values[c].flatten(-2), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = self.encoder(x).unflatten(-1, (3, 2, 3))
            pyro.sample("c", dist.Categorical(logits=logits).to_event(2))


def test_a_prior_of_codes():
    """Importance weights agree with the sum over all 3^6 maps, and training raises it."""
    pair = Coded()
    for p in pair.encoder.parameters():
        p.data.zero_()  # a uniform guide, whose weights are bounded
    x = pair.sample(20)

    def exact():
        codes = everything(pair.prior.network)
        likelihood = dist.Normal(pair.values[codes].flatten(-2), 1.0).to_event(1).log_prob(x[:, None])
        return (pair.prior().log_prob(codes) + likelihood).logsumexp(-1).detach()

    weights = pair.log_weights(x, num_particles=4000).log_w
    ratio = (weights - exact()).exp()
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / 4000**0.5).all()
    other = torch.full((20, 3, 2), 2)
    x = pair.values[other].flatten(-2).detach()
    before = exact().mean()
    ppvae.fit(pair, x, ppvae.VIMCO(5), epochs=40, lr=3e-2, **quiet)
    assert exact().mean() > before + 1


def test_a_prior_starts_at_the_codes_frequencies():
    prior = AutoregressivePrior(GatedPixelCNN((2, 2), 3, 8, 1))
    for p in prior.parameters():
        p.data.zero_()
    prior.init_from(torch.tensor([[[0, 0], [0, 1]]]))
    frequency = prior().log_prob(torch.tensor([[0, 0], [0, 0]])).exp() ** 0.25
    assert_close(frequency, torch.tensor((3 + 4) / (4 + 12)))


class Constant(MaskedNetwork):
    """A network of one's own, with a forward pass alone: each bit is that before it with probability 0.8."""

    def __init__(self):
        super().__init__()
        self.alphabet, self.order, self.num_condition = MADE(3, 2).alphabet, [(0,), (1,), (2,)], 0
        self.event_shape = (3,)
        self.logit = nn.Parameter(torch.tensor(4.0).log())

    def forward(self, inputs, h=None):
        before = nn.functional.pad(2 * inputs[:, :-1] - 1, (1, 0))
        return torch.stack([torch.zeros_like(before), before * self.logit], -1)


def test_a_network_of_ones_own():
    pair = AutoregressivePair(Constant())
    probabilities = pair.log_prob(torch.tensor([[0.0, 0, 0], [1, 0, 1]])).exp()
    assert_close(probabilities, torch.tensor([0.5 * 0.8 * 0.8, 0.5 * 0.2 * 0.2]))
    x = pair.sample(4000)
    same = (x[:, 1:] == x[:, :-1]).double()
    assert (same.mean(0) - 0.8).abs().max() < 4 * (0.16 / 4000) ** 0.5
    pair.init_from(x)
    ppvae.fit(pair, x, epochs=1, **quiet)
