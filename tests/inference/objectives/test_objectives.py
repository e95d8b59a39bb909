"""Objectives: exact values, unbiased gradients, known orderings, and what they refuse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae import ContractError, Pair
from ppvae.inference import ELBO, IWAE, EnumeratedELBO, LinearWarmup
from ppvae.models import GaussianMixture, LinearVAE, MarkovHVAE
from ppvae.tracing import trace_pair

pytestmark = pytest.mark.usefixtures("float64")


def draws(objective, pair, x, repeats=2000):
    """Values `[repeats, B]` of an objective, all in one batch."""
    with torch.no_grad():
        return objective(pair, x.repeat(repeats, 1))[0].reshape(repeats, len(x))


def gradients(objective, pair, x, parameters, repeats=1000):
    """Gradients of the surrogate with respect to all parameters together, `[repeats, P]`."""
    return torch.stack([flat_gradient(objective(pair, x)[1], parameters) for _ in range(repeats)])


def flat_gradient(scalar, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, parameters)])


class PoorlyGuided(LinearVAE):
    """A linear VAE with an offset, too narrow guide: its gap is large, and known."""

    def __init__(self):
        super().__init__(num_features=4, num_latents=2)
        self.fit_guide()
        self.encoder.bias.data += 0.3
        self.posterior_scale.data -= 0.5


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_elbo_falls_short_by_the_exact_gap(kl, assert_mean):
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    assert_mean(draws(ELBO(kl=kl), pair, x), (pair.log_prob(x) - pair.exact_gap(x)).detach())


@pytest.mark.slow(3)
@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_elbo_gradient_is_unbiased(kl, assert_mean):
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    exact = flat_gradient((pair.log_prob(x) - pair.exact_gap(x)).mean(), list(pair.parameters()))
    assert_mean(gradients(ELBO(kl=kl), pair, x, list(pair.parameters())), exact)


def test_analytic_kl_has_less_noise():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    analytic, monte_carlo = (draws(ELBO(kl=kl), pair, x).std(0) for kl in ("analytic", "monte_carlo"))
    assert (analytic != monte_carlo).all()
    assert draws(ELBO(kl="auto"), pair, x).std(0).allclose(analytic, rtol=0.2)


@pytest.mark.slow(3)
def test_iwae_bias_falls_as_one_over_k():
    """Oracle 2: log p - E IWAE_K is about chi^2 / 2K, with chi^2 in closed form."""
    pair, x = LinearVAE(4, 2).fit_guide(), torch.randn(2, 4)
    p = pair.posterior(x)
    Lp, Lq = p.precision_matrix, (1 / torch.nn.functional.softplus(pair.posterior_scale) ** 2).diag()
    chi2 = (torch.logdet(Lp) - torch.logdet(Lq) / 2 - torch.logdet(2 * Lp - Lq) / 2).expm1().detach()
    for K in (100, 400):
        shortfall = pair.log_prob(x).detach() - draws(IWAE(num_particles=K), pair, x, 4000)
        std_error = shortfall.std(0) / 4000**0.5
        expected = chi2 / (2 * K)
        assert ((shortfall.mean(0) - expected).abs() < 4 * std_error + 0.1 * expected).all()  # 0.1: next order in 1/K


def test_bounds_are_ordered():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    means = [draws(o, pair, x).mean(0) for o in (ELBO(), IWAE(num_particles=5), IWAE(num_particles=50))]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
    assert (means[2] < pair.log_prob(x)).all()


def test_one_importance_sample_is_the_elbo():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    pyro.set_rng_seed(7)
    elbo = ELBO(kl="monte_carlo")(pair, x)[0]
    pyro.set_rng_seed(7)
    torch.testing.assert_close(IWAE(num_particles=1)(pair, x)[0], elbo)


class Chain(Pair):
    """z2 -> z1 -> x with a guide that is independent, bottom-up or top-down."""

    def __init__(self, order: str):
        super().__init__()
        self.order = order
        self.slope = nn.Parameter(torch.tensor(0.3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            if self.order == "independent":
                pyro.sample("z1", dist.Normal(self.slope * x, 0.5))
                pyro.sample("z2", dist.Normal(self.slope * x, 0.5))
            elif self.order == "bottom-up":
                z1 = pyro.sample("z1", dist.Normal(self.slope * x, 0.5))
                pyro.sample("z2", dist.Normal(self.slope * z1, 0.5))
            else:
                z2 = pyro.sample("z2", dist.Normal(self.slope * x, 0.5))
                pyro.sample("z1", dist.Normal(self.slope * (z2 + x), 0.5))


@pytest.mark.parametrize("order", ["independent", "bottom-up", "top-down"])
def test_analytic_kl_only_where_the_dependencies_allow(order):
    pair, x = Chain(order), torch.tensor([-1.0, 0.5, 2.0])
    with torch.no_grad():
        exact = pair.log_weights(x, num_particles=400_000).log_w
        auto = ELBO(num_particles=1000)
        estimates = auto(pair, x.repeat(400))[0].reshape(400, 3)
    z = (estimates.mean(0) - exact.mean(0)) / (estimates.var(0) / 400 + exact.var(0) / 400_000).sqrt()
    assert z.abs().max() < 4
    if order == "bottom-up":
        with pytest.raises(ContractError, match="'z1': found no closed-form KL"):
            ELBO(kl="analytic")(pair, x)
    else:
        assert ELBO(kl="analytic")(pair, x)[0].shape == (3,)


def test_beta_weighs_the_kl_in_the_surrogate_only():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    results = {}
    for beta in (0.0, 0.5, 1.0):
        pyro.set_rng_seed(3)
        results[beta] = ELBO(beta=beta)(pair, x)
    for beta in (0.0, 0.5):
        torch.testing.assert_close(results[beta][0], results[1.0][0])
    kl = torch.distributions.kl_divergence(pair._q(x), dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)).mean()
    torch.testing.assert_close(results[0.0][1] - results[1.0][1], kl)
    torch.testing.assert_close(results[0.5][1] - results[1.0][1], kl / 2)


def test_warmup_reaches_the_objective_by_its_step():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    objective = ELBO(beta=LinearWarmup(steps=10, delay=5))
    surrogates = []
    for step, beta in ((0, 0.0), (10, 0.5), (math.inf, 1.0)):
        pyro.set_rng_seed(3)
        surrogates.append(objective(pair, x, step)[1])
        pyro.set_rng_seed(3)
        torch.testing.assert_close(surrogates[-1], ELBO(beta=beta)(pair, x)[1])
    assert surrogates[0] > surrogates[1] > surrogates[2]


def test_free_bits_stop_the_pull_below_them():
    pair, x = PoorlyGuided(), torch.randn(3, 4)
    kl = torch.distributions.kl_divergence(pair._q(x), dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)).mean()
    for nats, beta in ((0.5 * kl.item(), 1.0), (2 * kl.item(), 0.0)):
        gradients = []
        for objective in (ELBO(beta=beta), ELBO(free_bits=nats)):
            pyro.set_rng_seed(3)
            gradients.append(flat_gradient(objective(pair, x)[1], list(pair.parameters())))
        torch.testing.assert_close(*gradients)


def test_balancing_weighs_each_layer_by_the_nats_per_number_it_uses():
    """Against the formula, by hand: `sum_l beta gamma_l KL_l`, gamma_l ~ KL_l / size_l, 1 in the mean, held fixed."""
    pair, x, beta = MarkovHVAE.mlp(4, [3, 2, 1], hidden=[5], likelihood="gaussian"), torch.randn(6, 4), 0.3
    pyro.set_rng_seed(3)
    value, surrogate = ELBO(beta=beta, balance=True)(pair, x)
    pyro.set_rng_seed(3)
    joint = trace_pair(pair, x, num_particles=1)
    q, p = ([trace.nodes[f"z{i}"]["fn"] for i in (1, 2, 3)] for trace in (joint.guide, joint.model))
    kl = torch.stack([torch.distributions.kl_divergence(a, b).mean() for a, b in zip(q, p, strict=True)])
    per_number = kl.detach() / torch.tensor([3.0, 2.0, 1.0])
    gamma = per_number / per_number.mean()
    assert gamma.max() > 1.2 * gamma.min()
    log_lik = joint.model.nodes["x"]["fn"].log_prob(x)
    expected = log_lik.mean() - beta * (gamma * kl).sum()
    torch.testing.assert_close(surrogate, expected)
    torch.testing.assert_close(value.mean(), log_lik.mean() - kl.sum())  # the ELBO still
    learned = list(pair.parameters())
    torch.testing.assert_close(flat_gradient(surrogate, learned), flat_gradient(expected, learned))


def test_balancing_ends_with_the_warmup():
    pair, x = MarkovHVAE.mlp(4, [3, 2], hidden=[5], likelihood="gaussian"), torch.randn(6, 4)
    for step, same in ((5, False), (10, True), (math.inf, True)):
        surrogates = []
        for balance in (False, True):
            pyro.set_rng_seed(3)
            surrogates.append(ELBO(beta=LinearWarmup(10), balance=balance)(pair, x, step)[1])
        assert torch.equal(*surrogates) == same
    with pytest.raises(ValueError, match=r"balance: found True with beta=1\.0, expected a beta below 1"):
        ELBO(balance=True)


def test_enumerated_elbo_is_exact_for_a_mixture():
    x = torch.randn(6, 2)
    mixture = GaussianMixture(num_components=3, num_features=2, guide="amortized")
    log_joint = torch.stack([mixture.log_prob(x) + mixture.responsibilities(x)[:, c].log() for c in range(3)], -1)
    trace = pyro.poutine.trace(mixture.guide).get_trace(x)
    q = trace.nodes["component"]["fn"].probs
    exact = (q * (log_joint - q.log())).sum(-1)
    value, surrogate = EnumeratedELBO()(mixture, x)
    torch.testing.assert_close(value, exact)
    ours = torch.autograd.grad(surrogate, list(mixture.parameters()), allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(exact.mean(), list(mixture.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


class MixedLatents(Pair):
    """c -> z -> x with both in the guide, z depending on c there too."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.2, -0.1, 0.4]))
        self.shift = nn.Parameter(torch.tensor([0.5, 0.1, -0.5]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(3)))
            z = pyro.sample("z", dist.Normal(c.to(x.dtype) - 1, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            pyro.sample("z", dist.Normal(self.shift[c] + x / 2, 0.7))


def test_enumerated_elbo_with_continuous_latents(assert_mean):
    pair, x = MixedLatents(), torch.tensor([-1.0, 0.0, 1.5])
    with torch.no_grad():
        sampled = pair.log_weights(x, num_particles=400_000).log_w
        enumerated = EnumeratedELBO(num_particles=100)(pair, x.repeat(1000))[0].reshape(1000, 3)
    z = (sampled.mean(0) - enumerated.mean(0)) / (sampled.var(0) / 400_000 + enumerated.var(0) / 1000).sqrt()
    assert z.abs().max() < 4
    assert (enumerated.std(0) * 10 < sampled.std(0)).all()  # 100 particles and no draws of c


def test_discrete_guide_sites_need_a_second_particle():
    mixture, x = GaussianMixture(num_components=3, num_features=2, guide="amortized"), torch.randn(6, 2)
    for objective in (ELBO(), IWAE(num_particles=1)):
        with pytest.raises(ContractError, match=r"'component': found Categorical.*EnumeratedELBO"):
            objective(mixture, x)


def test_bad_settings_are_refused():
    for make in (ELBO, IWAE, EnumeratedELBO):
        with pytest.raises(ValueError, match="num_particles: found 0, expected at least 1"):
            make(num_particles=0)
    with pytest.raises(ValueError, match="kl: found 'exact'"):
        ELBO(kl="exact")
