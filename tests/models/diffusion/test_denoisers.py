"""Denoisers keep leading dimensions, treat each data point by itself, and see its noise level."""

import pytest
import torch

from ppvae.models import MLPDenoiser, UNet
from ppvae.models.diffusion.denoisers import NoiseEmbedding

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {
    "vectors": (lambda: MLPDenoiser(5, [16, 16]), (5,)),
    "odd images": (lambda: UNet((2, 7, 5), [4, 8, 12]), (2, 7, 5)),
    "one level": (lambda: UNet((1, 4, 4), [6]), (1, 4, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_particles_and_data_points_do_not_see_one_another(kind):
    """One by one, with a level each, the same numbers come out as all at once."""
    make, shape = KINDS[kind]
    network, x, gamma = make(), torch.randn(3, 4, *shape), torch.randn(4)
    together = network(x, gamma)
    assert together.shape == x.shape
    for k in range(3):
        for b in range(4):
            torch.testing.assert_close(together[k, b], network(x[k, b : b + 1], gamma[b])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_used_and_the_level_matters(kind):
    make, shape = KINDS[kind]
    network, x = make(), torch.randn(4, *shape)
    assert (network(x, torch.tensor(-3.0)) - network(x, torch.tensor(3.0))).abs().max() > 1e-3
    (network(x, torch.randn(4)) * torch.randn_like(x)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_embedding_tells_levels_apart():
    """Any two of a hundred levels from -12 to 12 are further apart than neighbors are at least."""
    levels = torch.linspace(-12, 12, 100)
    embedded = NoiseEmbedding(16)(levels)
    distances = torch.cdist(embedded, embedded) + 10 * torch.eye(100)
    assert distances.min() > 0.5 * distances.diagonal(1).min() > 0.1
    with pytest.raises(ValueError, match="size: found 3, expected an even number, 2 or more"):
        NoiseEmbedding(3)
