"""The bounds' values against exact ones: Exp(1) weights, enumerated latents, closed forms; their rates in K."""

import math
from itertools import pairwise

import pytest
import torch
from support.oracle_pairs import Curved, Discrete, expected_bound
from torch.distributions import Exponential

from ppvae import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, SUMO, TVO, Renyi, VRMax
from ppvae.models import LinearVAE

pytestmark = pytest.mark.usefixtures("float64")

X = torch.tensor([-0.7, 0.4, 1.9], dtype=torch.float64)


def exponential_log_weights(*shape):
    """Log weights of mean log E w = 0, with E[log mean of n] = digamma(n) - log n."""
    return Exponential(torch.ones(())).sample(shape).log()


def mean_iwae(n):
    n = torch.as_tensor(float(n))
    return (n.digamma() - n.log()).item()


@pytest.mark.parametrize("K", [1, 5, 40])
def test_iwae_of_exponential_weights(K, assert_mean):
    bound = IWAE(K).bound(exponential_log_weights(K, 20_000))
    assert_mean(bound, mean_iwae(K))
    variance = torch.polygamma(1, torch.tensor(float(K))).item()
    assert_mean((bound - mean_iwae(K)).square(), variance)


def mean_jvi(K, m):
    """The jackknife of the exact means."""
    terms = (
        (-1) ** j * (K - j) ** m / (math.factorial(m - j) * math.factorial(j)) * mean_iwae(K - j) for j in range(m + 1)
    )
    return sum(terms)


@pytest.mark.parametrize(("K", "m"), [(6, 0), (6, 1), (6, 2), (5, 3)])
def test_jackknife_of_exponential_weights(K, m, assert_mean):
    assert_mean(JVI(K, order=m).bound(exponential_log_weights(K, 20_000)), mean_jvi(K, m))


def test_sumo_is_unbiased(assert_mean):
    objective, u = SUMO(num_particles=3), 1 - torch.rand(20_000)
    num_terms = objective.num_terms(u)
    log_w = exponential_log_weights(3 + int(num_terms.max()), 20_000)
    assert_mean(objective.estimate(log_w, num_terms), 0.0)


def test_sumos_number_of_terms(assert_mean):
    num_terms = SUMO().num_terms(1 - torch.rand(200_000))
    for k, exact in ((1, 1.0), (2, 1 / 2), (7, 1 / 7), (79, 1 / 79), (80, 1 / 80), (90, 0.9**10 / 80)):
        found = (num_terms >= k).double()
        if exact == 1.0:
            assert found.all()
        else:
            assert_mean(found, exact)


def slope_of(sizes, K):
    """Of log size on log K."""
    K, sizes = (torch.as_tensor(t, dtype=torch.float64).abs().log() for t in (K, sizes))
    return (((K - K.mean()) * sizes).sum() / (K - K.mean()).square().sum()).item()


@pytest.mark.parametrize(("m", "rate"), [(0, 1), (1, 2), (2, 4)])
def test_bias_falls_as_k_to_the_minus_m_plus_one(m, rate):
    """Of the exact means; m = 0 is IWAE. The slope is a limit, approached as 1/K or faster.

    For m = 2 even -4: digamma(n) - log n = -1/2n - 1/12n^2 + 1/120n^4 - ... has no third term to be left with.
    """
    errors = [slope_of([mean_jvi(K, m) for K in pair], pair) + rate for pair in ((8, 16), (16, 32), (32, 64))]
    assert abs(errors[0]) > abs(errors[1]) > abs(errors[2])
    assert abs(errors[2]) < 4 / 32


def test_iwaes_shortfall_and_variance_are_chi_square_over_k(assert_mean):
    """Oracle 2: short by chi^2 / 2K, with variance chi^2 / K; CUBO_2 above by log(1 + chi^2) / 2, from below in K."""
    pair, x = LinearVAE(4, 2).fit_guide(), torch.randn(1, 4)
    p = pair.posterior(x)
    Lp, Lq = p.precision_matrix, (1 / torch.nn.functional.softplus(pair.posterior_scale) ** 2).diag()
    log1p_chi2 = (torch.logdet(Lp) - torch.logdet(Lq) / 2 - torch.logdet(2 * Lp - Lq) / 2).detach()
    with torch.no_grad():
        log_w = pair.log_weights(x.expand(500, 4), 4000).log_w
        exact = pair.log_prob(x)
    many = IWAE().bound(log_w)
    chi2 = log1p_chi2.expm1()
    assert_mean((many - exact) * 4000, -chi2 / 2, k=5)
    assert_mean((many - exact).square() * 4000, chi2, k=5)
    cubo = [CUBO(K).bound(log_w[:K]).mean() - exact for K in (2, 10, 100, 4000)]
    assert cubo[0] < cubo[1] < cubo[2] < cubo[3]
    assert_mean(log_w.flatten().mul(2).exp() / (2 * exact).exp(), log1p_chi2.exp(), k=5)


def all_states(pair, x):
    """Log weights of all states under a uniform guide: as the draws of one bound they make it exact."""
    log_p, _ = pair.log_joints(x)
    return log_p + math.log(len(log_p))


def test_thermodynamic_sums_enclose_the_evidence():
    pair = Discrete()
    log_w, exact = all_states(pair, X), pair.log_prob(X)
    torch.testing.assert_close(log_w.logsumexp(0) - math.log(6), exact)
    gaps = []
    for n in (1, 4, 16, 64):
        partition = tuple(j / n for j in range(n + 1))
        lower = TVO(6, partition=partition).bound(log_w)
        upper = TVO(6, partition=partition, upper=True).bound(log_w)
        assert (lower < exact).all()
        assert (exact < upper).all()
        gaps.append((upper - lower).mean().item())
    assert slope_of(gaps, [1, 4, 16, 64]) == pytest.approx(-1, abs=1e-9)  # the sums' difference telescopes: its width
    torch.testing.assert_close(TVO(6, partition=(0, 1)).bound(log_w), log_w.mean(0))


def test_bounds_are_ordered_where_they_can_be_written_out():
    for pair in (Curved(), Discrete()):
        bounds = [expected_bound(IWAE(K), pair, X, K) for K in (1, 2, 3)]
        for lower, higher in zip(bounds, [*bounds[1:], pair_log_prob(pair)], strict=True):
            assert (lower < higher).all()
        renyi = [expected_bound(Renyi(2, alpha=alpha), pair, X, 2) for alpha in (2.0, 1.0, 0.5, 0.0, -2.0)]
        renyi += [expected_bound(VRMax(2), pair, X, 2)]
        for lower, higher in pairwise(renyi):
            assert (lower < higher).all()
        torch.testing.assert_close(renyi[1], bounds[0])
        torch.testing.assert_close(renyi[3], bounds[1])
        near = expected_bound(Renyi(2, alpha=1 + 1e-5), pair, X, 2)
        torch.testing.assert_close(near, renyi[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("K", [2, 500])
def test_renyi_near_alpha_one_in_single_precision(K, scale):
    """Where `mean w^(1 - alpha)` is one but for rounding, the bound goes to the mean of log w."""
    log_w = (scale * torch.randn(K, 40) - 90).float()
    variance = log_w.double().var(0, correction=0)
    rounding = 20 * torch.finfo(torch.float32).eps * log_w.abs().max().item()
    for power in [sign * 10.0**-n for n in range(1, 15) for sign in (1, -1)]:
        objective = Renyi(K, alpha=1 - power)
        found = objective.bound(log_w).double()
        torch.testing.assert_close(found, objective.bound(log_w.double()), rtol=0, atol=rounding)
        if abs(power) * scale < 0.01:  # the cumulants' series, log E w + power var / 2
            series = log_w.double().mean(0) + power * variance / 2
            torch.testing.assert_close(found, series, rtol=0, atol=rounding + 2 * power**2 * scale**3)
        if abs(power) > 1e-4:
            exact = ((power * log_w.double()).logsumexp(0) - math.log(K)) / power
            torch.testing.assert_close(found, exact, rtol=0, atol=rounding)


@pytest.mark.parametrize("alpha", [-2.0, 0.5, 1 - 1e-9, 1 + 1e-9, 2.0])
def test_renyis_gradient_is_its_weights(alpha):
    log_w = torch.randn(7, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(Renyi(7, alpha=alpha).bound(log_w).sum(), log_w)
    torch.testing.assert_close(slope, ((1 - alpha) * log_w).softmax(0))


def pair_log_prob(pair):
    log_w, probability = pair.nodes(X)
    return (probability * log_w.exp()).sum(0).log()


def test_the_curved_pairs_evidence_by_another_rule():
    """The quadrature that the tests rest on, against a fine grid over z."""
    pair, z = Curved(), torch.linspace(-9, 9, 20_001).unsqueeze(-1)
    log_joint = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    log_joint = log_joint + torch.distributions.Normal(*pair.likelihood(z)).log_prob(X)
    torch.testing.assert_close(
        pair_log_prob(pair), log_joint.logsumexp(0) + math.log(18 / 20_000), rtol=1e-5, atol=1e-6
    )


def test_means_and_mixtures_of_bounds():
    log_w = torch.randn(6, 5)
    groups = [log_w[g::2].logsumexp(0) - math.log(3) for g in range(2)]
    for objective in (MIWAE(3, num_groups=2), PIWAE(3, num_groups=2)):
        torch.testing.assert_close(objective.bound(log_w), (groups[0] + groups[1]) / 2)
    mixture = 0.3 * log_w.mean(0) + 0.7 * IWAE(6).bound(log_w)
    torch.testing.assert_close(CIWAE(6, beta=0.3).bound(log_w), mixture)
    torch.testing.assert_close(VRMax(6).bound(log_w), log_w.max(0).values)


def test_elbo_is_the_expected_log_weight(assert_mean):
    pair = Curved()
    log_w, probability = pair.nodes(X)
    with torch.no_grad():
        draws = ELBO(kl="monte_carlo")(pair, X.repeat(5000))[0].reshape(5000, 3)
    assert_mean(draws, (probability * log_w).sum(0).detach())
