import pytest
import torch
from torch.func import jacrev, vmap

from ppvae.models import ResidualFlow
from ppvae.models.flows.residual_flow import ResidualBlock


def flow_with(scale, **settings):
    """A flow whose layers are all at their greatest norm, if scaled up enough."""
    flow = ResidualFlow(**{"num_features": 2, "num_blocks": 2, "hidden": [8], **settings})
    for p in flow.parameters():
        p.data *= scale
    return flow


def blocks(flow):
    return [transform for transform in flow.transforms if isinstance(transform, ResidualBlock)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lipschitz", [0.5, 0.9, 0.99])
def test_blocks_are_contractions_whatever_the_weights(lipschitz):
    flow, x = flow_with(100, lipschitz=lipschitz, hidden=[8, 8]), 3 * torch.randn(500, 2)
    for block in blocks(flow):
        norms = torch.linalg.matrix_norm(vmap(jacrev(block.network))(x), 2)
        assert norms.max() <= lipschitz
    assert norms.max() > lipschitz / 20  # and no more so than is needed


@pytest.mark.usefixtures("float64")
def test_a_linear_blocks_determinant():
    flow = flow_with(3, num_blocks=1, hidden=[])
    layer = blocks(flow)[0].network[0]
    weight = layer.weight * min(1, 0.9 / torch.linalg.matrix_norm(layer.weight, 2))
    x = torch.randn(4, 2)
    z = x + x @ weight.T + layer.bias
    log_det = torch.linalg.slogdet(torch.eye(2) + weight).logabsdet
    torch.testing.assert_close(flow.log_prob(x), flow.base().log_prob(z) + log_det)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("lipschitz", "num_features"), [(0.5, 3), (0.9, 11)])
def test_roulette_is_unbiased(lipschitz, num_features, assert_mean):
    """One number of terms for each batch, so a draw is a batch; blocks as far from the identity as they may be."""
    flow, x = flow_with(20, lipschitz=lipschitz, num_features=num_features), torch.randn(3, num_features)
    with torch.no_grad():
        draws = torch.stack([flow.train().distribution().log_prob(x) for _ in range(600)])
        exact = flow.log_prob(x)
        assert (draws.std(0) > 1e-3).all()
        assert_mean(draws, exact)
        torch.testing.assert_close(flow.eval().distribution().log_prob(x), exact)


@pytest.mark.usefixtures("float64")
def test_the_roulettes_gradient_is_unbiased(assert_mean):
    flow, x = flow_with(5, lipschitz=0.6, num_features=3), torch.randn(2, 3)
    bias = blocks(flow)[0].network[0].bias

    def gradient(log_p):
        return torch.autograd.grad(log_p.sum(), bias)[0]

    exact = gradient(flow.log_prob(x))
    draws = torch.stack([gradient(flow.train().distribution().log_prob(x)) for _ in range(300)])
    assert_mean(draws, exact)


@pytest.mark.parametrize(("lipschitz", "num_features"), [(0.5, 2), (0.9, 10)])
def test_training_is_exact_where_that_costs_no_more(lipschitz, num_features):
    flow, x = flow_with(5, lipschitz=lipschitz, num_features=num_features), torch.randn(3, num_features)
    torch.testing.assert_close(flow.train().distribution().log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize("lipschitz", [0.5, 0.99])
def test_the_inverse_reaches_rounding_at_the_greatest_slope(lipschitz):
    flow, z = flow_with(100, lipschitz=lipschitz, num_blocks=1), 3 * torch.randn(200, 2)
    (block,) = blocks(flow)
    with torch.no_grad():
        torch.testing.assert_close(block.pull(block.push(z))[0], z, atol=1e-5, rtol=1e-5)
