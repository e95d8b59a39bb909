"""Maps of vectors against their inverses and against autograd's Jacobians, one data point at a time."""

import pytest
import torch

from ppvae.inference.ledger.transport import Affine, Composition, Coupling, Diagonal, SinhArcsinh

NUM_PARTICLES, NUM_POINTS = 4, 3
DIMS = (1, 2, 5)


def flow(num_dims):
    couplings = {f"coupling{i}": Coupling(num_dims) for i in range(3)}
    return Composition(couplings | {"marginals": SinhArcsinh(num_dims), "affine": Affine(num_dims)})


MAPS = {"diagonal": Diagonal, "affine": Affine, "sinh-arcsinh": SinhArcsinh, "coupling": Coupling, "composition": flow}


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this file in double precision."""


@pytest.fixture(params=[(name, num_dims) for name in MAPS for num_dims in DIMS], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request):
    """A map, random parameters for each data point, and vectors."""
    name, num_dims = request.param
    transport, like = MAPS[name](num_dims), torch.zeros(NUM_POINTS, num_dims)
    parameters = {key: t + 0.4 * torch.randn_like(t) for key, t in transport.start(like).items()}
    return transport, parameters, torch.randn(NUM_PARTICLES, NUM_POINTS, num_dims)


@pytest.mark.parametrize("num_dims", DIMS)
@pytest.mark.parametrize("name", MAPS)
def test_each_starts_as_the_identity(name, num_dims):
    """But for couplings, which reverse the order; three of them do so once."""
    transport, v = MAPS[name](num_dims), torch.randn(NUM_PARTICLES, NUM_POINTS, num_dims)
    parameters = transport.start(torch.zeros(NUM_POINTS, num_dims))
    expected = v.flip(-1) if name in ("coupling", "composition") else v
    for (found, log_det), exact in (
        (transport.forward(parameters, v), expected),
        (transport.inverse(parameters, expected), v),
    ):
        torch.testing.assert_close(found, exact, atol=1e-13, rtol=1e-13)
        torch.testing.assert_close(log_det, torch.zeros(NUM_PARTICLES, NUM_POINTS), atol=1e-13, rtol=0)


def test_the_inverse_goes_back(case):
    transport, parameters, v = case
    u, log_det = transport.forward(parameters, v)
    again, log_det_there = transport.inverse(parameters, u)
    assert (u - v).abs().max() > 0.1
    torch.testing.assert_close(again, v, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_there, log_det, atol=1e-10, rtol=0)
    torch.testing.assert_close(transport.forward(parameters, transport.inverse(parameters, v)[0])[0], v)


def test_log_determinants_are_those_of_the_jacobian(case):
    transport, parameters, v = case
    log_det = transport.forward(parameters, v)[1]
    assert log_det.shape == (NUM_PARTICLES, NUM_POINTS)
    for k in range(NUM_PARTICLES):
        for b in range(NUM_POINTS):
            own = {name: t[b : b + 1] for name, t in parameters.items()}
            jacobian = torch.autograd.functional.jacobian(
                lambda point, own=own: transport.forward(own, point[None, None])[0][0, 0], v[k, b]
            )
            torch.testing.assert_close(log_det[k, b], torch.linalg.slogdet(jacobian).logabsdet)


def test_parameters_are_a_data_points_own(case):
    """Others of data point 1 change its image, and no other's; particles are mapped alike."""
    transport, parameters, v = case
    changed = {name: t.clone() for name, t in parameters.items()}
    for t in changed.values():
        t[1] += 1.0
    for direction in (transport.forward, transport.inverse):
        before, after = direction(parameters, v), direction(changed, v)
        for found, other in zip(after, before, strict=True):
            assert torch.equal(found[:, [0, 2]], other[:, [0, 2]])
        assert not torch.isclose(after[0][:, 1], before[0][:, 1]).all()
        alone = direction(parameters, v[2:3])
        torch.testing.assert_close((alone[0][0], alone[1][0]), (before[0][2], before[1][2]))


def test_an_affine_map_is_of_any_covariance():
    """`u = L v + b`, with L read from its parameters: the logarithms of its diagonal, and what is below."""
    tril = torch.tensor([[2.0, 0.0], [-1.0, 0.5]])
    parameters = {
        "shift": torch.tensor([[3.0, 4.0]]),
        "log_diagonal": tril.diagonal().log()[None],
        "lower": tril.tril(-1)[None] + 7 * torch.ones(2, 2).triu(),  # of which nothing is to be seen
    }
    v = torch.randn(NUM_PARTICLES, 1, 2)
    u, log_det = Affine(2).forward(parameters, v)
    torch.testing.assert_close(u, v @ tril.T + torch.tensor([3.0, 4.0]))
    assert (log_det.abs() < 1e-15).all()


def test_sinh_arcsinh_skews_and_stretches():
    """Positive skew moves the median to sinh(b); a tail parameter above zero makes far values farther."""
    zero, v = torch.zeros(1, 1), torch.tensor([-20.0, 0.0, 20.0])[:, None, None]
    skewed = SinhArcsinh(1).forward({"log_tail": zero, "skew": zero + 0.5}, v)[0].flatten()
    torch.testing.assert_close(skewed[1], torch.tensor(0.5).sinh())
    assert skewed[2] > 20 > -skewed[0]
    heavy = SinhArcsinh(1).forward({"log_tail": zero + 0.3, "skew": zero}, v)[0].flatten()
    torch.testing.assert_close(heavy, -heavy.flip(0))
    assert heavy[2] > 40


def test_a_composition_applies_the_first_first():
    first, second = Affine(2), SinhArcsinh(2)
    both = Composition({"a": first, "b": second})
    parameters = {name: t + torch.randn_like(t) for name, t in both.start(torch.zeros(NUM_POINTS, 2)).items()}
    assert list(parameters) == ["a/shift", "a/log_diagonal", "a/lower", "b/log_tail", "b/skew"]
    own = [{n[2:]: t for n, t in parameters.items() if n.startswith(part)} for part in "ab"]
    v = torch.randn(NUM_PARTICLES, NUM_POINTS, 2)
    inner, log_det = first.forward(own[0], v)
    outer, further = second.forward(own[1], inner)
    torch.testing.assert_close(both.forward(parameters, v), (outer, log_det + further))
