"""Particles leading and particles by rows give the same numbers, for every pair of the zoo, objective and measure."""

import pytest
import torch
from support.objectives import FEW, OBJECTIVES
from support.slow import some_slow
from support.zoo import ZOO, checked
from test_conformance import ALLOWED

import ppvae
from ppvae import AIS, Effort, EvidenceUndefined
from ppvae.inference.ledger.ascent import Ascent
from ppvae.latent_view import LatentView
from ppvae.refusals import ContractError

LAYOUTS = ("leading", "rows")
CELLS = some_slow(ALLOWED, 0.02, lambda cell: cell[0] in FEW)


def both(name, measure):
    """What `measure(pair, x)`, which leaves both as they are, gives in each layout, from the same seed."""
    results = []
    for layout in LAYOUTS:
        pair, x = checked(name, layout)
        torch.manual_seed(1)
        results.append(measure(pair, x))
    return results


def assert_same(leading, rows, tolerance=1e-7):
    torch.testing.assert_close(rows, leading, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("objective", "name"), CELLS)
def test_value_and_gradient(objective, name):
    def measure(pair, x):
        value, surrogate = OBJECTIVES[objective](pair, x)
        return value.detach(), torch.autograd.grad(surrogate, list(pair.parameters()), allow_unused=True)

    assert_same(*both(name, measure))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ZOO)
def test_weights_and_reconstructions(name):
    def measure(pair, x):
        weights = pair.log_weights(x, num_particles=3)
        try:
            means = pair.reconstruct(x, num_particles=2)
        except NotImplementedError as error:
            means = str(error)
        return weights.log_p_sites, weights.log_q_sites, weights.latents, means

    leading, rows = both(name, measure)
    if isinstance(leading[-1], str):
        assert leading[-1] == rows[-1]
        leading, rows = leading[:-1], rows[:-1]
    assert_same(leading, rows)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ZOO)
def test_densities_in_the_latent_view(name):
    def measure(pair, x):
        try:
            view = LatentView(pair, x)
        except ContractError as error:
            return str(error)
        u = view.draw(pair, x, 3).detach().requires_grad_()
        densities = view.densities(pair, x, u)
        return densities.log_start, densities.log_joint, torch.autograd.grad(densities.log_joint.sum(), u)

    leading, rows = both(name, measure)
    if isinstance(leading, str):
        assert leading == rows
    else:
        assert_same(leading, rows)


FEW_DRAWS = Effort("iwae", 10, (), 10, Ascent(num_particles=2, max_steps=5), 0, True, 0)
quiet = {"seed": 0, "progress": False}


def records(*found):
    return [t for record in found for t in (record.estimate, record.std_error)]


def terms(found):
    used = [(u.mutual_information, u.active_units) for u in found.latents.values()]
    return records(found.elbo, found.expected_log_likelihood, *(u.kl for u in found.latents.values())), used


MEASURES = {
    "elbo": lambda pair, x: records(ppvae.elbo(pair, x, 10, **quiet)),
    "iwae": lambda pair, x: records(ppvae.log_evidence(pair, x, "iwae", num_particles=10, **quiet)),
    "elbo_terms": lambda pair, x: terms(ppvae.elbo_terms(pair, x, 5, **quiet)),
    "ledger": lambda pair, x: records(*ppvae.gap(pair, x, FEW_DRAWS, **quiet).lines().values()),
}


def or_refusal(measure):
    """The measure, or why it is refused."""

    def measured(pair, x):
        try:
            return measure(pair, x)
        except (ContractError, EvidenceUndefined) as error:
            return str(error)

    return measured


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("measure", "name"),
    [
        pytest.param(measure, name, marks=() if measure == "iwae" else pytest.mark.slow(0.3))
        for measure in MEASURES
        for name in ZOO
    ],
)
def test_what_is_measured(measure, name):
    leading, rows = both(name, or_refusal(MEASURES[measure]))
    if isinstance(leading, str):
        assert rows == leading
    else:
        assert_same(leading, rows, tolerance=1e-5)


@pytest.mark.slow(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ZOO)
def test_annealing(name):
    """Densities and gradients are the same to rounding (above); trajectories amplify it, and are so within errors."""

    def annealed(pair, x):
        return ppvae.log_evidence(pair, x, "ais", annealing=AIS(8, 4), **quiet)

    leading, rows = both(name, or_refusal(annealed))
    if isinstance(leading, str):
        assert rows == leading
    else:
        error = (leading.std_error.square() + rows.std_error.square()).sqrt()
        assert ((leading.estimate - rows.estimate).abs() <= 4 * error + 1e-5).all()
