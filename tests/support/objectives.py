"""Every objective, in many settings, and what is asked of it on a pair that it can be trained on."""

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK

from ppvae.batches import num_rows
from ppvae.inference import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    SUMO,
    EnumeratedELBO,
    GumbelSoftmaxELBO,
    LinearWarmup,
    Renyi,
    SingleTermELBO,
    WeightObjective,
)
from ppvae.inference.objectives.registry import REGISTRY


class Own(WeightObjective):
    """A user's: the least of the log weights, below whatever their mean is below."""

    def bound(self, log_w):
        return log_w.amin(0)


def half(step):
    return 0.5


OBJECTIVES = {name: entry.objective(num_particles=3) for name, entry in REGISTRY.items()} | {
    "ELBO": ELBO(),
    "ELBO(2)": ELBO(2),
    "ELBO(2), analytic": ELBO(2, kl="analytic"),
    "ELBO(2), Monte Carlo": ELBO(2, kl="monte_carlo"),
    "ELBO, STL": ELBO(gradient="stl"),
    "ELBO(2), STL": ELBO(2, gradient="stl"),
    "ELBO(2), score": ELBO(2, gradient="score"),
    "beta-ELBO": ELBO(2, beta=0.5),
    "beta-ELBO, warmup": ELBO(2, beta=LinearWarmup(2), gradient="stl"),
    "free bits": ELBO(2, free_bits=0.1),
    "KL balancing": ELBO(2, beta=LinearWarmup(2), balance=True),
    "IWAE, STL": IWAE(3, gradient="stl"),
    "IWAE, DReG": IWAE(3, gradient="dreg"),
    "IWAE, score": IWAE(3, gradient="score"),
    "MIWAE": MIWAE(2, num_groups=2),
    "MIWAE, DReG": MIWAE(2, gradient="dreg", num_groups=2),
    "PIWAE": PIWAE(2, num_groups=2),
    "PIWAE, DReG": PIWAE(2, gradient="dreg", num_groups=2),
    "CIWAE, DReG": CIWAE(3, gradient="dreg"),
    "Renyi(2), score": Renyi(3, gradient="score", alpha=2.0),
    "Renyi(1), STL": Renyi(3, gradient="stl", alpha=1.0),
    "RWS, sleep": RWS(3, phase="sleep"),
    "EnumeratedELBO": EnumeratedELBO(2),
    "a user's own": Own(3),
    "GumbelSoftmaxELBO": GumbelSoftmaxELBO(temperature=half),
    "SUMO": SUMO(2),
    "SingleTermELBO": SingleTermELBO(2),
}

FEW = ("ELBO", "IWAE, DReG", "ELBO(2), score")
"""Those of the fast tests that run on every pair of the zoo; the others' are slow for their number."""


def assert_conforms(objective, pair, x):
    """A finite value for each data point, the same without gradients; a scalar surrogate with finite gradients."""
    pyro.set_rng_seed(1)
    value, surrogate = objective(pair, x)
    assert value.shape == (num_rows(x),)
    assert value.isfinite().all()
    assert surrogate.shape == ()
    assert all(parameter.grad is None for parameter in pair.parameters())
    gradients = torch.autograd.grad(surrogate, list(pair.parameters()), allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert any(gradient.any() for gradient in gradients if gradient is not None)  # so that a step changes something
    assert _PYRO_STACK == []
    pyro.set_rng_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(objective(pair, x)[0], value)
