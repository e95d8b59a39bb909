import sys

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.models import ContinuousFlow, Flow, StandardNormal
from ppvae.models.flows.continuous_flow import Integral


def field(num_features=2, scale=0.5):
    flow = ContinuousFlow(num_features, hidden=[8], tolerance=1e-8)
    for p in flow.parameters():
        p.data += scale * torch.randn(p.shape)
    return flow


@pytest.mark.usefixtures("float64")
def test_linear_field_is_the_matrix_exponential():
    """`dz/dt = A z + b t`: x = e^A z + int_0^1 e^(A (1 - t)) b t dt, log |det dx/dz| = tr A."""
    matrix, drift = torch.randn(3, 3), torch.randn(3)
    velocity = nn.Linear(4, 3)
    velocity.weight.data = torch.cat([matrix, drift[:, None]], 1)
    velocity.bias.data.zero_()
    flow = Flow(StandardNormal(3), [Integral(velocity, 1e-10)])
    nodes, weights = (torch.as_tensor(a) for a in __import__("numpy").polynomial.legendre.leggauss(20))
    times, weights = (nodes + 1) / 2, weights / 2
    mean = sum(w * torch.matrix_exp(matrix * (1 - t)) @ drift * t for t, w in zip(times, weights, strict=True))
    factor = torch.matrix_exp(matrix)
    x = torch.randn(5, 3)
    exact = dist.MultivariateNormal(mean, factor @ factor.T).log_prob(x)
    torch.testing.assert_close(flow.log_prob(x), exact, atol=1e-8, rtol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_features", [2, 5])
def test_hutchinsons_trace_is_unbiased(num_features, assert_mean):
    flow, x = field(num_features), torch.randn(3, num_features)
    with torch.no_grad():
        draws = flow.train().distribution().log_prob(x.repeat(3000, 1)).reshape(3000, 3)
        exact = flow.log_prob(x)
        assert (draws.std(0) > 1e-3).all()
        assert_mean(draws, exact)
        torch.testing.assert_close(flow.eval().distribution().log_prob(x), exact)


@pytest.mark.usefixtures("float64")
def test_the_estimates_gradient_is_unbiased(assert_mean):
    flow, x = field(), torch.randn(1, 2)
    bias = flow.transforms[0].velocity[0].bias
    (exact,) = torch.autograd.grad(flow.log_prob(x).sum(), bias)
    estimates = flow.train().distribution().log_prob(x.repeat(1200, 1)).reshape(40, 30).mean(1)
    draws = [torch.autograd.grad(e, bias, retain_graph=True)[0] for e in estimates]
    assert_mean(torch.stack(draws), exact)


@pytest.mark.slow(4)
@pytest.mark.usefixtures("float64")
def test_smaller_tolerance_smaller_error():
    """Of every point, alone and among others: a hundredth of the tolerance, at most a tenth of the error."""
    flow, x = field(scale=1.0), 2 * torch.randn(50, 2)

    def solved(tolerance):
        flow.transforms[0].tolerance = tolerance
        return torch.cat([flow.log_prob(x), *[flow.log_prob(row[None]) for row in x[:2]]]).detach()

    exact = solved(1e-11)
    torch.testing.assert_close(exact[:2], exact[50:], atol=1e-8, rtol=1e-8)
    errors = torch.stack([(solved(tolerance) - exact).abs() for tolerance in (1e-4, 1e-6, 1e-8)])
    for group in (errors[:, :50], errors[:, 50:]):
        largest = group.amax(1)
        assert largest[0] > 10 * largest[1] > 100 * largest[2]


def test_without_the_solver_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"found no module torchdiffeq.*pip install 'ppvae\[ode\]'"):
        ContinuousFlow(2)
