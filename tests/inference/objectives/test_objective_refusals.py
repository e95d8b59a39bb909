"""What objectives refuse, and how they say so: the setting or site, what was found, and what to do instead."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import EnergyDistance, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.runtime import _PYRO_STACK
from support.functions import assert_says
from support.zoo import ZOO
from support.zoo_pairs import BottomUp, Components, Positive

from ppvae import ContractError, Pair, fit
from ppvae.inference import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    JVI,
    MIWAE,
    PIWAE,
    RWS,
    SUMO,
    TVO,
    VIMCO,
    EnumeratedELBO,
    GumbelSoftmaxELBO,
    LinearWarmup,
    Renyi,
    VRMax,
)
from ppvae.models import GaussianMixture, LinearVAE

EVERY = [CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, RWS, SUMO, TVO, VIMCO, EnumeratedELBO, GumbelSoftmaxELBO]
EVERY += [Renyi, VRMax]
SCORE_ONLY = r"gradient: found 'reparameterized' in .*expected one of \('score',\).*for another, use IWAE"


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("num_particles", [0, -3])
def test_fewer_than_one_particle(make, num_particles):
    with pytest.raises(ValueError, match=f"num_particles: found {num_particles}, expected at least 1"):
        make(num_particles=num_particles)


@pytest.mark.parametrize("make", [make for make in EVERY if hasattr(make, "gradient")])
def test_unknown_gradient(make):
    with pytest.raises(ValueError, match=r"gradient: found 'pathwise'.*expected .*'(reparameterized|score)'"):
        make(gradient="pathwise")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(gradient="dreg"), "gradient: found 'dreg', expected .*'stl'.*for one particle"),
        (lambda: ELBO(kl="exact"), "kl: found 'exact', expected 'auto', 'analytic' or 'monte_carlo'"),
        (lambda: ELBO(kl="analytic", gradient="stl"), "kl: found 'analytic' with gradient='stl', expected 'auto' or"),
        (lambda: MIWAE(num_groups=0), "num_groups: found 0, expected at least 1"),
        (lambda: PIWAE(num_groups=0), "num_groups: found 0, expected at least 1"),
        (lambda: CIWAE(beta=1.5), "beta: found 1.5, expected the ELBO's share, from 0 to 1"),
        (lambda: CIWAE(beta=-0.1), "beta: found -0.1, expected the ELBO's share, from 0 to 1"),
        (lambda: VIMCO(gradient="reparameterized"), SCORE_ONLY),
        (lambda: TVO(gradient="reparameterized"), SCORE_ONLY),
        (lambda: RWS(gradient="reparameterized"), SCORE_ONLY),
        (lambda: RWS(phase="nap"), "phase: found 'nap', expected 'wake' or 'sleep'"),
        (lambda: Renyi(gradient="stl"), r"'stl' with alpha=0.5, .*use ELBO\(gradient='stl'\) or IWAE\(gradient='dreg"),
        (lambda: Renyi(gradient="stl", alpha=0.0), "found 'stl' with alpha=0.0, expected 'reparameterized' or 'score'"),
        (lambda: Renyi(gradient="dreg", alpha=1.0), "found 'dreg' with alpha=1.0, .*IWAE"),
        (lambda: VRMax(gradient="stl"), r"found 'stl' in VRMax.*expected one of .*'score'\).*or use IWAE"),
        (lambda: VRMax(gradient="dreg"), r"found 'dreg' in VRMax.*expected one of .*'score'\).*or use IWAE"),
        (lambda: CUBO(gradient="dreg"), "found 'dreg' in CUBO.*for another, use IWAE"),
        (lambda: CUBO(gradient="reparameterized"), "found 'reparameterized' in CUBO.*for another, use IWAE"),
        (lambda: CUBO(n=1.0), "n: found 1.0, expected a number above 1"),
        (lambda: CUBO(n=math.nan), "n: found nan, expected a number above 1"),
        (lambda: Renyi(alpha=math.nan), "alpha: found nan, expected a finite number"),
        (lambda: ELBO(beta=-1.0), "beta: found -1.0, expected 0 or more"),
        (lambda: ELBO(free_bits=-1.0), "free_bits: found -1.0, expected 0 or more"),
        (lambda: IWAE(2.5), "num_particles: found 2.5, expected at least 1, a whole number"),
        (lambda: JVI(order=1.5), "order: found 1.5"),
        (lambda: LinearWarmup(0), "steps: found 0, expected at least 1"),
        (lambda: TVO(partition=(0.0, math.nan, 1.0)), "partition: found .*rising from 0 to 1"),
        (lambda: TVO(partition=()), "partition: found .*expected numbers rising from 0 to 1, both included"),
        (lambda: TVO(partition=(0.0,)), "partition: found .*rising from 0 to 1"),
        (lambda: TVO(partition=(0.1, 1.0)), "partition: found .*rising from 0 to 1"),
        (lambda: TVO(partition=(0.0, 0.9)), "partition: found .*rising from 0 to 1"),
        (lambda: TVO(partition=(0.0, 0.5, 0.5, 1.0)), "partition: found .*rising from 0 to 1"),
        (lambda: TVO(partition=(0.0, 0.7, 0.3, 1.0)), "partition: found .*rising from 0 to 1"),
        (lambda: GumbelSoftmaxELBO(temperature=0.0), "temperature: found 0.0, expected above 0"),
        (lambda: GumbelSoftmaxELBO(temperature=-1.0), "temperature: found -1.0, expected above 0"),
        (lambda: GumbelSoftmaxELBO(temperature=math.nan), "temperature: found nan, expected above 0"),
        (lambda: JVI(num_particles=3, order=3), "order: found 3 with num_particles=3, expected 0 to 2.*take more"),
        (lambda: JVI(num_particles=3, order=7), "order: found 7 with num_particles=3, expected 0 to 2.*take more"),
        (lambda: JVI(num_particles=3, order=-1), "order: found -1 with num_particles=3, expected 0 to 2"),
        (lambda: JVI(num_particles=1), "order: found 1 with num_particles=1, expected 0 to 0"),
    ],
)
def test_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Preprocessed(Pair):
    """Observes what it makes of its argument."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("log_x", dist.Normal(z, 1.0), obs=x.log())

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.log(), 1.0))


def scalar():
    return torch.rand(8)


def vector():
    return torch.randn(8, 3)


ONE_PARTICLE = "guide site 'z': found .*and one particle, expected at least two.*num_particles=2 or more"


@pytest.mark.parametrize(
    ("objective", "pair", "data", "message"),
    [
        (
            IWAE(3, gradient="dreg"),
            lambda: GaussianMixture(3, 3),
            vector,
            "'component': found Categor.*use another gradient",
        ),
        (CUBO(1), lambda: GaussianMixture(3, 3), vector, "'component': found Categorical and one particle"),
        (ELBO(), lambda: GaussianMixture(3, 3), vector, "'component': found Categorical and one particle.*Enumerated"),
        (ELBO(gradient="score"), lambda: LinearVAE(3, 2), vector, ONE_PARTICLE),
        (IWAE(1, gradient="score"), lambda: LinearVAE(3, 2), vector, ONE_PARTICLE),
        (VIMCO(1), lambda: LinearVAE(3, 2), vector, ONE_PARTICLE),
        (MIWAE(1, gradient="score", num_groups=1), lambda: LinearVAE(3, 2), vector, ONE_PARTICLE),
        (ELBO(kl="analytic"), BottomUp, vector, "'z1': found no closed-form KL.*guide.*use kl='auto'"),
        (ELBO(kl="analytic"), Positive, scalar, "'z': found no closed-form KL .*LogNormal.*Gamma.*use kl='auto'"),
        (ELBO(beta=0.5), lambda: Components(tied=True), scalar, r"\['z'\]: found tied .*use beta=1 and free_bits=0"),
        (ELBO(free_bits=1.0), lambda: Components(tied=True), scalar, r"\['z'\]: found tied .*use beta=1 and free"),
        (RWS(3, phase="sleep"), Preprocessed, scalar, "'log_x': found observed data that the model computes"),
    ],
)
def test_pairs(objective, pair, data, message):
    with pytest.raises(ContractError, match=message):
        objective(pair(), data())
    assert _PYRO_STACK == []


@pytest.mark.parametrize("objective", [JVI(3), SUMO(3)])
def test_estimates_for_evaluation_only(objective):
    pair, x = LinearVAE(3, 2), vector()
    for attempt in (lambda: objective(pair, x), lambda: fit(pair, x, objective, steps=1, progress=False)):
        with pytest.raises(ContractError, match=r"gradients enabled.*under torch.no_grad\(\), and train with IWAE"):
            attempt()
    with torch.no_grad():
        assert objective(pair, x)[0].isfinite().all()


@pytest.mark.parametrize("objective", [ELBO(), IWAE(3, gradient="dreg"), CUBO(1), VIMCO(1)])
def test_what_cannot_be_trained_on_can_be_evaluated(objective):
    pair, x = ZOO["amortized mixture"].make()
    with pytest.raises(ContractError):
        objective(pair, x)
    with torch.no_grad():
        assert objective(pair, x)[0].isfinite().all()


def test_jvi_of_one_particle_leaves_none_out():
    pair, x = LinearVAE(3, 2), vector()
    with torch.no_grad():
        assert JVI(num_particles=1, order=0)(pair, x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Trace_ELBO(), "objective: found a Trace_ELBO, expected an objective, such as ELBO()"),
        (Trace_ELBO, "in place of Trace_ELBO, TraceMeanField_ELBO or TraceGraph_ELBO take ELBO()"),
        (TraceEnum_ELBO().differentiable_loss, "TraceEnum_ELBO EnumeratedELBO()"),
        (EnergyDistance(), "objective: found an EnergyDistance, expected an objective, such as ELBO()"),
        (lambda pair, batch: None, "it cannot be called with 3 arguments"),
        (lambda pair, batch, step: ELBO()(pair, batch)[1], "a function returns a Tensor of shape [] and torch.float32"),
        (lambda pair, batch, step: (ELBO()(pair, batch)[0], 1.0), "returns a tuple of 2, expected two tensors"),
    ],
)
def test_what_is_no_objective_is_refused_before_anything_changes(objective, said):
    pair = LinearVAE(3, 2)
    before = [p.clone() for p in pair.parameters()]
    with pytest.raises(TypeError) as caught:
        fit(pair, torch.randn(5, 3), objective, steps=1, progress=False)
    assert_says(str(caught.value), said, "expected")
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


@pytest.mark.parametrize("number", ["high", None, -1.0, math.nan, torch.ones(2)])
@pytest.mark.parametrize(("make", "name"), [(ELBO, "beta"), (GumbelSoftmaxELBO, "temperature")])
def test_what_a_schedule_says_is_a_number(make, name, number):
    objective = make(**{name: lambda step: number})
    with pytest.raises(ValueError, match=rf"{name}: found .* at step inf, expected a number.*change the schedule"):
        objective(LinearVAE(4, 2), torch.zeros(3, 4))
