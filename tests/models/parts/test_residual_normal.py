"""The residual normal against torch's Normal, which it equals, and against double precision, where torch's KL fails."""

import pyro.distributions as dist
import pytest
import torch
from support.oracle_pairs import Guided
from torch.distributions import Independent, Normal, kl_divergence

from ppvae.inference.ledger.local_guide import LocalGuide
from ppvae.models import ResidualNormal


def parameters(*shape, dtype=torch.float64):
    """delta_loc, delta_scale, and the prior's location and scale, of moderate size."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    return [t.to(dtype) for t in (draws[0], draws[1].div(2).exp(), draws[2], draws[3].div(2).exp())]


def plain(delta_loc, delta_scale, loc, scale):
    return Normal(loc + delta_loc, scale * delta_scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_kl_is_torchs(dtype, tolerance):
    """To rounding, relative to the KL, for moderate scales."""
    delta_loc, delta_scale, loc, scale = parameters(1000, dtype=dtype)
    prior = dist.Normal(loc, scale)
    found = kl_divergence(ResidualNormal(delta_loc, delta_scale, prior), prior)
    exact = kl_divergence(plain(*parameters(1000)), Normal(*parameters(1000)[2:]))
    error = (found - exact).abs() / exact.clamp(min=1)
    assert found.dtype == dtype
    assert error.max() < tolerance


@pytest.mark.parametrize("sigma", [1e-3, 1e-6, 1e-12, 1e-30])
def test_kl_to_a_narrow_prior_keeps_its_digits(sigma):
    """In float32 as in float64, where the formula in locations has lost them."""
    delta_loc, delta_scale, loc, _ = parameters(1000, dtype=torch.float32)
    delta_loc, scale = delta_loc * sigma, torch.full_like(loc, sigma)
    prior = dist.Normal(loc, scale)
    found = kl_divergence(ResidualNormal(delta_loc, delta_scale, prior), prior)
    wide = [t.double() for t in (delta_loc, delta_scale, torch.zeros_like(loc), scale)]  # locations cancel
    exact = kl_divergence(plain(*wide), Normal(*wide[2:]))
    torchs = kl_divergence(plain(delta_loc, delta_scale, loc, scale), Normal(loc, scale))
    assert ((found - exact).abs() / exact.clamp(min=1)).max() < 1e-6
    assert ((torchs - exact).abs() / exact.clamp(min=1)).max() > 1e-5


def test_gradients_of_the_kl_are_the_closed_forms(float64):
    """Of the deltas and of the prior's scale; that of its location is nothing, as the posterior moves with it."""
    delta_loc, delta_scale, loc, scale = (t.requires_grad_() for t in parameters(5))
    prior = dist.Normal(loc, scale)
    kl = kl_divergence(ResidualNormal(delta_loc, delta_scale, prior), prior)
    found = torch.autograd.grad(kl.sum(), [delta_loc, delta_scale, loc, scale])
    z = delta_loc / scale
    exact = [z / scale, delta_scale - 1 / delta_scale, torch.zeros(5), -z.square() / scale]
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)


def test_kl_to_another_normal_is_torchs(float64):
    delta_loc, delta_scale, loc, scale = parameters(50)
    other = dist.Normal(loc.flip(0), scale.flip(0))
    found = kl_divergence(ResidualNormal(delta_loc, delta_scale, dist.Normal(loc, scale)), other)
    torch.testing.assert_close(found, kl_divergence(plain(delta_loc, delta_scale, loc, scale), other))


def test_it_is_the_normal_of_its_location_and_scale(float64):
    """Density, draws and moments; deltas and prior broadcast, and so does what is made of them by Pyro."""
    delta_loc, delta_scale, loc, scale = parameters(7, 3)
    q = ResidualNormal(delta_loc[0], delta_scale, dist.Normal(loc, scale[:, :1]))
    expected = Normal(loc + delta_loc[0], scale[:, :1] * delta_scale)
    z = q(sample_shape=torch.Size([2]))
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close([q.mean, q.stddev], [expected.mean, expected.stddev])
    event = q.to_event(1).expand([4, 7])
    assert isinstance(event.base_dist, ResidualNormal)
    assert (event.rsample().shape, event.event_shape) == ((4, 7, 3), (3,))
    prior = Independent(Normal(loc, scale[:, :1].expand(7, 3)), 1).expand([4, 7])
    torch.testing.assert_close(kl_divergence(event, prior), kl_divergence(q, q.prior).sum(-1).expand(4, 7))


def test_what_is_no_scale_is_refused():
    with pytest.raises(ValueError, match="delta_scale"):
        ResidualNormal(torch.zeros(2), torch.tensor([1.0, -1.0]), dist.Normal(torch.zeros(2), 1.0))


def test_a_local_guide_moves_the_deltas(float64):
    """Locations are shifted by so many scales, scales multiplied, the prior stays."""
    prior = dist.Normal(torch.tensor([0.5, -1.0]), torch.tensor([1e-3, 2.0]))
    pair, x = Guided(lambda x: ResidualNormal(x.unsqueeze(-1), torch.ones(2), prior).to_event(1)), torch.randn(3)
    local = LocalGuide(pair, x)
    assert local.shapes == {"z/delta_loc": (2,), "z/delta_scale": (2,)}
    offsets = local.zeros(x)
    offsets["z/delta_loc"][1] = torch.tensor([0.1, 0.2])
    torch.manual_seed(0)
    before = pair.latents(x)["z"][0]
    torch.manual_seed(0)
    moved = local.latents(local.with_offsets(x, offsets))["z"][0]
    torch.testing.assert_close(moved - before, torch.tensor([[0.0, 0.0], [0.1 * 1e-3, 0.2 * 2], [0.0, 0.0]]))
