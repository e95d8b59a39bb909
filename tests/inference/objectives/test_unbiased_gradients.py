"""The mean gradient of each estimator against the gradient of the expected bound, written out; and known biases."""

import pytest
import torch
from support.oracle_pairs import Curved, Discrete, Mixed, TwoModed, expected_bound
from support.slow import some_slow

from ppvae import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, RWS, TVO, VIMCO, EnumeratedELBO, Renyi, VRMax
from ppvae.inference.objectives.importance_weighted import slope

pytestmark = pytest.mark.usefixtures("float64")

X = torch.tensor([-0.7, 0.4, 1.9], dtype=torch.float64)
REPEATS, COPIES = 100, 5
"""Draws of the gradient, each the mean over copies of the data: 500 of them, five at once."""


def flat(scalar, pair):
    found = torch.autograd.grad(scalar, list(pair.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def gradients(objective, pair, copies=1):
    return torch.stack([flat(objective(pair, X.repeat(COPIES * copies))[1], pair) for _ in range(REPEATS)])


def bias(objective, pair, exact, copies=1):
    """The bias of each parameter's gradient in standard errors; zero where there is no noise at all."""
    found = gradients(objective, pair, copies)
    std_error = found.std(0) / REPEATS**0.5
    certain = std_error < 1e-12
    torch.testing.assert_close(found.mean(0)[certain], exact[certain])
    return torch.where(certain, 0.0, (found.mean(0) - exact) / std_error)


FOLLOWED = [
    *(ELBO(2, kl=kl, gradient=g) for kl in ("auto", "monte_carlo") for g in ("reparameterized", "score")),
    ELBO(2, gradient="stl"),
    *(IWAE(2, g) for g in ("reparameterized", "dreg", "score")),
    *(MIWAE(2, g, num_groups=1) for g in ("reparameterized", "dreg")),
    *(CIWAE(2, g, beta=0.3) for g in ("reparameterized", "dreg", "score")),
    *(Renyi(2, g, alpha=0.5) for g in ("reparameterized", "score")),
    VRMax(2),
]


class Mean(IWAE):
    """The ELBO as a function of the log weights, for `expected_bound`."""

    def bound(self, log_w):
        return log_w.mean(0)


def exact_gradient(objective, pair):
    return flat(expected_bound(Mean(2) if isinstance(objective, ELBO) else objective, pair, X, 2).mean(), pair)


@pytest.mark.parametrize("objective", some_slow(FOLLOWED, 2, lambda objective: type(objective) is IWAE), ids=str)
def test_on_a_curved_likelihood(objective):
    pair = Curved()
    assert bias(objective, pair, exact_gradient(objective, pair)).abs().max() < 5


@pytest.mark.parametrize(
    "objective",
    some_slow(
        [ELBO(2), ELBO(2, kl="monte_carlo"), IWAE(2), VIMCO(2), CIWAE(2), Renyi(2), VRMax(2)],
        2,
        lambda objective: type(objective) is VIMCO,
    ),
    ids=str,
)
@pytest.mark.parametrize("make", [Discrete, Mixed])
def test_on_discrete_latents(make, objective):
    pair = make()
    assert bias(objective, pair, exact_gradient(objective, pair)).abs().max() < 5


@pytest.mark.slow(3)
@pytest.mark.parametrize("objective", [ELBO(2, gradient="stl"), ELBO(2, gradient="score"), IWAE(2, "score")], ids=str)
def test_on_mixed_latents(objective):
    pair = Mixed()
    assert bias(objective, pair, exact_gradient(objective, pair)).abs().max() < 5


@pytest.mark.parametrize(
    "objective",
    some_slow(
        [*(ELBO(2, gradient=g) for g in ("reparameterized", "stl", "score")), IWAE(2), IWAE(2, "score"), Renyi(2)],
        3,
        lambda objective: type(objective) is ELBO,
    ),
    ids=str,
)
def test_on_a_latent_that_is_reparameterized_in_part(objective):
    pair = TwoModed()
    assert bias(objective, pair, exact_gradient(objective, pair), copies=40).abs().max() < 5


def test_enumeration_is_exact_or_unbiased():
    discrete, mixed = Discrete(), Mixed()
    torch.testing.assert_close(flat(EnumeratedELBO()(discrete, X)[1], discrete), exact_gradient(ELBO(2), discrete))
    assert bias(EnumeratedELBO(), mixed, exact_gradient(ELBO(2), mixed)).abs().max() < 5


def test_piwae_is_iwae_for_the_model_and_miwae_for_the_guide():
    pair, objective = Curved(), PIWAE(1, num_groups=2)
    pair.shared.requires_grad_(False)
    own = {name: p for name, p in pair.named_parameters() if p.requires_grad}
    found = torch.stack([_flat(objective(pair, X.repeat(COPIES))[1], own.values()) for _ in range(REPEATS)])
    exact = {
        part: _flat(expected_bound(bound, pair, X, 2).mean(), own.values())
        for part, bound in (("model", IWAE(2)), ("guide", Mean(2)))
    }
    target = torch.where(torch.tensor([name in ("slope", "log_scale") for name in own]), exact["guide"], exact["model"])
    assert ((found.mean(0) - target) / (found.std(0) / REPEATS**0.5)).abs().max() < 5


def _flat(scalar, parameters):
    return torch.stack(torch.autograd.grad(scalar, list(parameters)))


MODEL, GUIDE = slice(0, 9), slice(9, None)  # of the discrete pair's parameters


@pytest.mark.slow(3)
@pytest.mark.parametrize("objective", [RWS(2), CUBO(2), TVO(2, partition=(0.0, 1.0))], ids=str)
def test_the_models_gradient_with_fixed_latents(objective):
    pair = Discrete()
    target = exact_gradient(ELBO(2) if isinstance(objective, TVO) else IWAE(2), pair)
    assert bias(objective, pair, target)[MODEL].abs().max() < 5


def expected_score(pair, num_draws, power):
    """`E[sum_k v_k d log q(z_k)]`, v the normalized `w^power` of K draws, mean over data: exact."""
    log_p, log_q = pair.log_joints(X)
    tuples = torch.cartesian_prod(*[torch.arange(6)] * num_draws).T
    weights = (power * (log_p - log_q)[tuples]).softmax(0) * log_q.exp()[tuples].prod(0)
    return flat((weights.detach() * log_q[tuples]).sum((0, 1)).mean(), pair)[GUIDE]


@pytest.mark.parametrize(("make", "power"), [(RWS, 1), (CUBO, 2)])
def test_normalized_weights_are_biased_and_less_so_with_more_particles(make, power):
    pair = Discrete()
    log_p, log_q = pair.log_joints(X)
    limit = flat(((power * (log_p - log_q) + log_q).softmax(0).detach() * log_q).sum(0).mean(), pair)[GUIDE]
    exact = {K: expected_score(pair, K, power) for K in (2, 3, 4)}
    size = {K: (exact[K] - limit).norm() for K in exact}
    assert size[2] > size[3] > size[4] > 0
    found = gradients(make(2), pair, copies=4)[:, GUIDE]
    std_error = found.std(0) / REPEATS**0.5
    assert ((found.mean(0) - exact[2]) / std_error).abs().max() < 5
    assert ((found.mean(0) - limit) / std_error).abs().max() > 8


@pytest.mark.slow(4)
def test_sticking_the_landing_is_biased_for_several_particles():
    pair = Curved()
    assert bias(IWAE(2, "stl"), pair, exact_gradient(IWAE(2), pair)).abs().max() > 8
    assert bias(IWAE(1, "stl"), pair, exact_gradient(ELBO(2), pair)).abs().max() < 5


def test_slopes_are_derivatives():
    log_w = torch.randn(4, 3)
    torch.testing.assert_close(slope(IWAE(4).bound, log_w), log_w.softmax(0))
