"""Every objective on every pair of the zoo: it trains, or it refuses by name; and a bound is a bound."""

import inspect
import re

import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from support.objectives import FEW, OBJECTIVES, Own, assert_conforms
from support.slow import some_slow
from support.zoo import FACTORIZED, ZOO, checked

from ppvae import ContractError, fit, inference, log_evidence, models
from ppvae.batches import map_batch, num_rows
from ppvae.inference import (
    CIWAE,
    CUBO,
    DIPVAE,
    ELBO,
    IWAE,
    MIWAE,
    AdversarialLoss,
    BetaTCVAE,
    EnumeratedELBO,
    FactorVAE,
    FeatureELBO,
    GumbelSoftmaxELBO,
    Objective,
    SemiSupervisedELBO,
    SingleTermELBO,
    SpikedELBO,
    VectorQuantizedELBO,
)
from ppvae.inference.objectives.registry import REGISTRY

NO_BOUNDS = {"VRMax", "CUBO", "JVI", "SUMO"}

SOFTENED = {"OneHotCategorical", "Bernoulli", "Bits", "OneHots"}
FINITE = {"Categorical", "OneHotCategorical", "Bernoulli"}


def refusal(objective, member):
    """What is said where this objective is not to be trained on this pair; None where it is."""
    match objective:
        case AdversarialLoss() if member.critic != "data":
            return r"found no `critic` and `generate`, expected a pair with an adversary.*use ELBO\(\)"
        case FeatureELBO() if member.critic != "data":
            return r"found no `critic`, `features` and `decode`, expected a pair with a critic.*use ELBO\(\)"
        case FactorVAE() if member.critic != "latents":
            return r"found no `latent_critic`, expected a pair with a critic of its latents.*or BetaTCVAE\(\)"
        case Objective(evaluation_only=True):
            return "found gradients enabled.*under torch.no_grad.*train with IWAE"
        case SingleTermELBO() if not member.terms:
            return r"found no `num_terms` and `elbo_term`.*use ELBO\(\)"
        case VectorQuantizedELBO() if not member.quantized:
            return r"found no guide site at the nearest codes.*use ELBO\(\)"
        case SemiSupervisedELBO() if not member.partly_observed and FINITE.issuperset(member.drawn.values()):
            return r"found no site that is observed in part.*use EnumeratedELBO\(\) or ELBO\(\)"
        case BetaTCVAE() | DIPVAE() if member not in (ZOO[name] for name in FACTORIZED):
            return r"found the latent sites .*expected one, with independent Gaussian.*use ELBO\(\)"
        case ELBO(kl="analytic") | SpikedELBO() if member.open_kl:
            return f"site '{member.open_kl}': found no closed-form KL.*use kl='auto'"
        case ELBO() if member.tied and (objective.beta != 1 or objective.free_bits):
            return rf"latent sites \['{member.tied}'\]: found tied to the observation.*use beta=1 and free_bits=0"
    for site, fn in member.drawn.items():
        where = f"guide site '{site}': found "
        match objective:
            case GumbelSoftmaxELBO() if fn not in SOFTENED:
                return where + f"{fn}, whose draws cannot be softened.*use VIMCO"
            case EnumeratedELBO() if fn not in FINITE:
                said = r".*can be neither enumerated as one site nor reparameterized.*"
                return where + said + r"use ELBO\(num_particles=2\) or VIMCO"
            case IWAE(gradient="dreg") | MIWAE(gradient="dreg") | CIWAE(gradient="dreg"):
                return where + r".*no reparameterized gradient.*use another gradient, VIMCO\(\) or RWS\(\)"
            case ELBO(num_particles=1):
                return where + ".*and one particle.*use num_particles=2 or more"
    return None


CELLS = [(objective, name) for name in ZOO for objective in OBJECTIVES]
ALLOWED = [cell for cell in CELLS if refusal(OBJECTIVES[cell[0]], ZOO[cell[1]]) is None]
REFUSED = [cell for cell in CELLS if cell not in ALLOWED]


def test_every_objective_is_here():
    exported = {getattr(inference, name) for name in inference.__all__}
    objectives = {c for c in exported if inspect.isclass(c) and issubclass(c, Objective) and not inspect.isabstract(c)}
    assert {entry.objective for entry in REGISTRY.values()} == objectives
    assert {type(objective) for objective in OBJECTIVES.values()} == objectives | {Own}


def is_fast(cell):
    return cell[0] in FEW or cell[1] in ("linear", "bits")


TRAINED = [cell for i, cell in enumerate(ALLOWED) if cell[0] == "ELBO" or cell[1] in ("linear", "bits") or i % 7 == 0]
"""Each pair with the ELBO, two of them with each objective, and a seventh of the others: those differ by the surrogate
alone, whose gradients are tested of every cell."""


@pytest.mark.parametrize(("objective", "name"), some_slow(ALLOWED, 0.02, is_fast))
def test_allowed_cell_gives_value_and_gradient(objective, name):
    assert_conforms(OBJECTIVES[objective], *checked(name))


@pytest.mark.parametrize(("objective", "name"), some_slow(TRAINED, 0.06, is_fast))
def test_allowed_cell_trains(objective, name):
    pair, x = ZOO[name].make()
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    result = fit(pair, x, OBJECTIVES[objective], steps=3, batch_size=4, lr=0.01, progress=False)
    after = [parameter.detach() for parameter in pair.parameters()]
    assert (result.stopped, result.steps) == ("completed", 3)
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert _PYRO_STACK == []


@pytest.mark.parametrize(("objective", "name"), some_slow(REFUSED, 0.05, is_fast))
def test_refused_cell_refuses_before_the_first_step(objective, name):
    objective, member = OBJECTIVES[objective], ZOO[name]
    pair, x = member.make()
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    for attempt in (lambda: objective(pair, x, 0), lambda: fit(pair, x, objective, steps=3, progress=False)):
        with pytest.raises(ContractError) as caught:
            attempt()
        assert re.search(refusal(objective, member), str(caught.value), re.DOTALL)
        assert _PYRO_STACK == []
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


@pytest.mark.parametrize("objective", ["JVI", "SUMO"])
@pytest.mark.parametrize("name", ZOO)
def test_debiased_estimates_evaluate_every_pair(objective, name):
    pair, x = checked(name)
    with torch.no_grad():
        value, _ = OBJECTIVES[objective](pair, x)
    assert value.shape == (num_rows(x),)
    assert value.isfinite().all()


def values(objective, pair, x, repeats):
    """`[repeats, B]`, all in one batch."""
    many = map_batch(lambda t: t.repeat(repeats, *(1,) * (t.dim() - 1)), x)
    with torch.no_grad():
        return objective(pair, many)[0].reshape(repeats, -1)


def assert_at_most(lower, upper, k=4.5):
    """The mean of `lower` is at most that of `upper`, each `[repeats, B]`, within k standard errors and rounding."""
    std_error = (lower.var(0) / len(lower) + upper.var(0) / len(upper)).sqrt()
    excess = lower.mean(0) - upper.mean(0)
    assert (excess <= k * std_error + 1e-10).all(), f"excess {excess}, standard error {std_error}"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", some_slow(ZOO, 1, lambda name: ZOO[name].exact))
def test_more_particles_come_closer_to_the_evidence(name):
    """ELBO <= IWAE(5) <= IWAE(50) <= log p(x); the first and the third differ if the guide is not the posterior.

    Not so where it has but one value for each data point."""
    pair, x = ZOO[name].make()
    pair.eval()
    elbo, few, many = (values(o, pair, x, 400) for o in (ELBO(kl="monte_carlo"), IWAE(5), IWAE(50)))
    assert_at_most(elbo, few)
    assert_at_most(few, many)
    if ZOO[name].exact:
        assert_at_most(many, pair.log_prob(x).detach().expand(2, -1))
    rise = (many - elbo).mean(1)
    assert (rise.mean() > 4.5 * rise.std() / len(rise) ** 0.5 + 1e-10) == (ZOO[name].gap and not ZOO[name].quantized)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name, member in ZOO.items() if member.exact])
def test_no_bound_exceeds_the_evidence(name):
    pair, x = ZOO[name].make()
    pair.eval()
    evidence = pair.log_prob(x).detach().expand(2, -1)
    for objective, of in ALLOWED:
        if of == name and objective not in NO_BOUNDS:
            assert_at_most(values(OBJECTIVES[objective], pair, x, 300), evidence)


@pytest.mark.parametrize("name", [name for name, member in ZOO.items() if member.exact])
def test_exact_evidence_of_a_batch_in_any_form(name):
    """Our closed forms are written for x, and take a tuple or a dict of it as models do."""
    pair, x = ZOO[name].make()
    if not isinstance(x, torch.Tensor) or not type(pair).__module__.startswith("ppvae"):
        pytest.skip("its batch has several entries, or its closed form is not ours")
    argument = next(iter(inspect.signature(getattr(pair, "pair", pair).model).parameters))
    exact = log_evidence(pair, x, "exact", progress=False).estimate
    for form in ((x,), {argument: x}):
        assert torch.equal(log_evidence(pair, form, "exact", progress=False).estimate, exact)


def linear():
    """A fresh pair, data of another one, and the highest mean log p(x) that any can reach: its ELBO's too."""
    truth = models.LinearVAE(4, 2)
    truth.weight.data *= 2
    truth.log_sigma.data -= 0.7
    truth.mean.data += 1
    x = truth.sample(100)
    return models.LinearVAE(4, 2), x, models.LinearVAE(4, 2).fit_closed_form(x).log_prob(x).mean()


def mixture():
    """The same for a mixture, and what the data's own reaches."""
    truth = models.GaussianMixture(3, 2, covariance="spherical")
    truth.assign(means=torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), covariances=torch.full((3,), 0.25))
    x = truth.sample(100)
    pair = models.GaussianMixture(3, 2, covariance="spherical", guide="amortized")
    return pair, x, truth.log_prob(x).mean()


PROBLEMS = {"linear": linear, "amortized mixture": mixture}
TRAININGS = [(o, name) for o, name in ALLOWED if name in PROBLEMS]
ONCE = {objective: name for objective, name in reversed(TRAININGS)}
"""For each objective the first of the problems that it can be trained on."""


@pytest.mark.parametrize(("objective", "problem"), some_slow(TRAININGS, 0.2, lambda cell: ONCE[cell[0]] == cell[1]))
def test_training_raises_exact_evidence_and_elbo(objective, problem):
    """By half and a quarter of the way to what can be reached; measured were 67 % and 35 % at least (VR-max)."""
    pair, x, reachable = PROBLEMS[problem]()

    def exact():
        evidence = pair.log_prob(x)
        return torch.stack([evidence.mean(), (evidence - pair.exact_gap(x)).mean()]).detach()

    start = exact()
    fit(pair, x, OBJECTIVES[objective], steps=60, batch_size=50, lr=0.05, progress=False)
    evidence, elbo = (exact() - start) / (reachable - start)
    assert evidence > 0.5
    assert elbo > 0.25


def test_training_on_cubo_brings_a_guide_near_the_posterior_closer():
    pair = models.LinearVAE(4, 2).fit_guide()
    x = pair.sample(100)
    pair.requires_grad_(False)
    pair.encoder.bias += 0.3
    pair.posterior_scale += 0.5
    pair.encoder.requires_grad_(True)
    pair.posterior_scale.requires_grad_(True)
    start = pair.exact_gap(x).mean().item()
    fit(pair, x, CUBO(100), steps=60, batch_size=50, lr=0.01, progress=False)
    assert pair.exact_gap(x).mean() < start / 10
