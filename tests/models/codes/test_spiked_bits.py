"""Spike-and-exponential smoothing: draws, densities, KL, evidence and gradients against sums and integrals."""

import math

import pytest
import torch
from pyro.distributions import Bernoulli as Coin
from torch import nn
from torch.nn.functional import softplus

import ppvae
from ppvae.models import VAE, Bernoulli, IndependentBits, RestrictedBoltzmann, SpikedBits, SpikedBoltzmann
from ppvae.models.codes.spiked_bits import IndependentSpikedBits

pytestmark = pytest.mark.usefixtures("float64")
BETA = 4.0
NODES = (torch.arange(400, dtype=torch.float64) + 0.5) / 400


def exponential(zeta, beta=BETA):
    """`r(zeta | 1)`."""
    return beta * (beta * zeta).exp() / math.expm1(beta)


def states(num):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * num)


def machine(num_left, num_right):
    made = RestrictedBoltzmann(num_left, num_right)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def pair(beta=BETA):
    torch.manual_seed(1)
    own = VAE(SpikedBoltzmann(machine(1, 1), beta), Bernoulli(nn.Linear(2, 4)), SpikedBits(nn.Linear(4, 2), beta))
    for parameter in own.likelihood.parameters():
        nn.init.normal_(parameter)
    return own.eval()


@pytest.mark.parametrize("logit", [-3.0, -1.0, 0.0, 3.0])
def test_zetas_marginal_is_a_spike_and_an_exponential(logit, assert_mean):
    q = IndependentSpikedBits(torch.tensor([logit]), BETA)
    one = torch.tensor(logit).sigmoid()
    torch.testing.assert_close(q.log_prob(torch.zeros(1)).exp(), 1 - one)
    torch.testing.assert_close(q.log_prob(NODES[:, None]).exp(), one * exponential(NODES))
    drawn = q.sample((20_000,))
    assert_mean((drawn > 0).to(drawn), one.expand(1), k=4.5)
    for statistic in (lambda z: z, torch.cos, lambda z: (z > 0.8).to(z)):
        exact = (1 - one) * statistic(torch.zeros(())) + one * (exponential(NODES) * statistic(NODES)).mean()
        assert_mean(statistic(drawn), exact.expand(1), k=4.5)
    torch.testing.assert_close(q.mean, (one * (exponential(NODES) * NODES).mean()).expand(1), rtol=1e-4, atol=1e-12)


def test_the_prior_gives_each_pattern_what_the_machine_gives_its_bits(assert_mean):
    """All 2^8 patterns, and what of them is drawn."""
    torch.manual_seed(0)
    own, z = SpikedBoltzmann(machine(4, 4), BETA), states(8)
    zeta = z * torch.rand(256, 8)
    of_pattern = own().log_prob(zeta) - (z * exponential(zeta).log()).sum(-1)
    torch.testing.assert_close(of_pattern, own.machine().log_prob(z))
    torch.testing.assert_close(of_pattern.exp().sum(), torch.tensor(1.0))
    drawn = own().sample((20_000,))
    assert_mean((drawn > 0).to(drawn), of_pattern.exp() @ z, k=4.5)
    assert_mean(drawn, of_pattern.exp() @ z * (exponential(NODES) * NODES).mean(), k=4.5)


def test_the_kl_is_the_sum_over_all_bits():
    torch.manual_seed(0)
    p, q, z = SpikedBoltzmann(machine(4, 4), BETA)(), IndependentSpikedBits(torch.randn(3, 8), BETA), states(8)
    log_q = Coin(logits=q.logits).to_event(1).log_prob(z[:, None])
    by_hand = (log_q.exp() * (log_q - p.bits.log_prob(z)[:, None])).sum(0)
    torch.testing.assert_close(ppvae.inference.kl_divergence(q, p), by_hand)


def given_bits(own, x):
    """`log p(x | z)`, `[4, B]`: the mean over zeta, by integration."""
    found = []
    for z in states(2):
        axes = [torch.stack([NODES, exponential(NODES) / 400]) if one else torch.tensor([[0.0], [1.0]]) for one in z]
        zeta = torch.cartesian_prod(*[axis[0] for axis in axes])
        weight = torch.cartesian_prod(*[axis[1] for axis in axes]).prod(-1)
        found.append((own.likelihood(zeta[:, None]).log_prob(x) + weight.log()[:, None]).logsumexp(0))
    return torch.stack(found)


def test_the_evidence_is_the_spiked_models_and_that_is_nearly_the_discrete_one_where_steep():
    """By integration; importance weights find it."""
    torch.manual_seed(0)
    x, off = torch.rand(3, 4).round(), []
    for beta in (BETA, 10.0, 40.0):
        own = pair(beta)
        log_p, z = own.prior.machine().log_prob(states(2))[:, None], states(2)[:, None]
        if beta == BETA:
            exact = (given_bits(own, x) + log_p).logsumexp(0)
            found = ppvae.log_evidence(own, x, "iwae", 20_000, seed=0, progress=False)
            assert ((found.estimate - exact).abs() < 4.5 * found.std_error + 1e-5).all()
            continue
        discrete = (own.likelihood(z).log_prob(x) + log_p).logsumexp(0)
        found = ppvae.log_evidence(own, x, "iwae", 20_000, seed=0, progress=False)
        off.append((found.estimate - discrete).abs().mean())
    assert 0 < off[1] < off[0] / 2


def test_without_weights_the_bits_are_independent():
    """W = 0: prior and posterior alike, and no gap of the KL."""
    free = RestrictedBoltzmann(2, 2)
    free.weight.data.zero_()
    free.left.data, free.right.data = torch.randn(2), torch.randn(2)
    logits = torch.cat([free.left, free.right])
    q, p = IndependentSpikedBits(logits, BETA), SpikedBoltzmann(free, BETA)()
    zeta = p.sample((7,))
    torch.testing.assert_close(p.log_prob(zeta), q.log_prob(zeta))
    torch.testing.assert_close(ppvae.inference.kl_divergence(q, p), torch.tensor(0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [ppvae.SpikedELBO(), ppvae.ELBO(2), ppvae.VIMCO(2)], ids=repr)
def test_gradients_are_of_the_bound(objective, assert_mean):
    """That of the ELBO by integration, along the draws and by the score function; of VIMCO, by enumeration."""
    torch.manual_seed(0)
    own, x = pair(), torch.rand(1, 4).round()
    logits = own.posterior.network(x).detach().requires_grad_()
    exact = of_two_weights if isinstance(objective, ppvae.VIMCO) else elbo
    (expected,) = torch.autograd.grad(exact(own, x, logits), logits)
    repeats = 20_000
    rows = logits.detach().expand(repeats, 2).clone().requires_grad_()
    own.posterior.network = Constant(rows)
    _, surrogate = objective(own, x.expand(repeats, 4))
    (found,) = torch.autograd.grad(surrogate * repeats, rows)
    assert_mean(found, expected[0], k=4.5)


class Constant(nn.Module):
    """Logits that do not depend on x, one row for each data point."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        return self.rows


def on_grid(own, x, logits, num):
    """All draws of the guide with their probabilities, on a grid: log w and q, `[(num + 1)^2]`."""
    nodes = (torch.arange(num) + 0.5) / num
    one = logits[0].sigmoid()
    q = [torch.cat([(1 - m)[None], m * exponential(nodes) / num]) for m in one]
    zeta = torch.cartesian_prod(*[torch.cat([torch.zeros(1), nodes])] * 2)
    z = (zeta > 0).to(zeta)
    log_w = own.likelihood(zeta).log_prob(x) + own.prior.machine().log_prob(z)
    return log_w - (z * logits - softplus(logits)).sum(-1), torch.cartesian_prod(*q).prod(-1)


def elbo(own, x, logits):
    log_w, q = on_grid(own, x, logits, 400)
    return (q * log_w).sum()


def of_two_weights(own, x, logits):
    """`E log (w_1 + w_2) / 2`."""
    log_w, q = on_grid(own, x, logits, 40)
    return (torch.outer(q, q) * (torch.logaddexp(log_w, log_w[:, None]) - math.log(2))).sum()


def test_the_path_has_less_noise_than_the_score_function():
    """Of ten bits with a decoder that uses them."""
    torch.manual_seed(0)
    likelihood, x = Bernoulli(nn.Linear(10, 20)), torch.rand(1, 20).round().expand(4000, 20)
    nn.init.normal_(likelihood.network.weight)
    prior, logits = SpikedBoltzmann(machine(5, 5), BETA), torch.randn(10)
    spread = []
    for objective in (ppvae.SpikedELBO(2), ppvae.ELBO(2)):
        rows = logits.expand(4000, 10).clone().requires_grad_()
        own = VAE(prior, likelihood, SpikedBits(Constant(rows), BETA)).eval()
        (found,) = torch.autograd.grad(objective(own, x)[1], rows)
        spread.append(found.var(0).sum())
    assert spread[0] < spread[1] / 2


@pytest.mark.parametrize("logit", [-800.0, 800.0])
def test_certain_bits_have_finite_gradients(logit):
    logits = torch.full((1000, 1), logit, requires_grad=True)
    zeta = IndependentSpikedBits(logits, BETA).followed().rsample()
    assert ((zeta > 0) == (logit > 0)).all()
    assert torch.autograd.grad(zeta.sum(), logits)[0].isfinite().all()


def test_annealing_is_refused_by_name():
    with pytest.raises(ppvae.ContractError, match="site 'z'"):
        ppvae.log_evidence(pair(), torch.zeros(2, 4), "ais", progress=False)


def test_the_bits_are_those_of_the_discrete_vae():
    """At the same logits, of `IndependentBits`."""
    network, x = nn.Linear(4, 3), torch.randn(5, 4)
    z = states(3)[:, None]
    torch.testing.assert_close(
        SpikedBits(network)(x).log_prob_of_bits(z), IndependentBits(network)(x).log_prob(z.expand(-1, 5, 3))
    )
