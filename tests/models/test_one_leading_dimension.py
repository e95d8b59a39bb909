"""Networks as most are written, for batches `[N, ...]` alone, may be parts: such a pair is made, and run by rows."""

import warnings

import pytest
import torch
from torch import nn

from ppvae.models import (
    GAN,
    M2,
    VAE,
    VQVAE,
    VQVAE2,
    Bernoulli,
    BottomUpPosterior,
    Classifier,
    Codebook,
    CodeLevel,
    DiagonalNormal,
    LabelPrior,
    MarkovHVAE,
    StandardNormal,
    UniformCodes,
)
from ppvae.networks import Fold

pytestmark = pytest.mark.usefixtures("float64")


def normed(num_in, num_out):
    return nn.Sequential(nn.Linear(num_in, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, num_out))


def decoder(num_in):
    """Of images `[1, 4, 4]`, by a transposed convolution."""
    return nn.Sequential(nn.Linear(num_in, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 1, 2, stride=2))


def encoder(num_out):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_out))


def vae(of):
    return VAE(StandardNormal(2), Bernoulli(of(decoder(2), 1), 3), DiagonalNormal(of(encoder(4), 3)))


def m2(of):
    label, likelihood = Classifier(of(normed(5, 3), 1)), Bernoulli(of(normed(2 + 3, 5), 1))
    return M2(LabelPrior(3), StandardNormal(2), likelihood, label, DiagonalNormal(of(normed(5 + 3, 4), 1)))


def hierarchy(of):
    guide = BottomUpPosterior([DiagonalNormal(of(encoder(6), 3)), DiagonalNormal(of(normed(3, 4), 1))])
    transition = DiagonalNormal(of(normed(2, 6), 1))
    return MarkovHVAE(StandardNormal(2), [transition], Bernoulli(of(decoder(3), 1), 3), guide)


def vqvae(of):
    to_codes = nn.Sequential(encoder(4), nn.Unflatten(1, (2, 2)))
    from_codes = nn.Sequential(nn.Flatten(), decoder(4))
    return VQVAE(of(to_codes, 3), Codebook(4, 2), Bernoulli(of(from_codes, 2), 3), UniformCodes((2,), 4))


def vqvae2(of):
    features = nn.Sequential(encoder(6), nn.Unflatten(1, (2, 3)))
    to_top = nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.Unflatten(1, (1, 2)))
    top = CodeLevel([1], of(to_top, 2), Codebook(3, 2), UniformCodes([1], 3))
    to_bottom = nn.Sequential(nn.Flatten(), nn.Linear(10, 4), nn.Unflatten(1, (2, 2)))
    bottom = CodeLevel([2], of(to_bottom, 2), Codebook(3, 2), UniformCodes([2], 3))
    return VQVAE2(of(features, 3), top, bottom, Bernoulli(of(nn.Sequential(nn.Flatten(), decoder(8)), 2), 3))


IMAGES = torch.rand(5, 1, 4, 4).round().double()
LABELED = (torch.rand(5, 5).round().double(), torch.tensor([0, 2, 1, 0, 0]), torch.tensor([1, 1, 1, 0, 0]) > 0)
CASES = {
    "VAE": (vae, IMAGES),
    "M2": (m2, LABELED),
    "MarkovHVAE": (hierarchy, IMAGES),
    "VQVAE": (vqvae, IMAGES),
    "VQVAE2": (vqvae2, IMAGES),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pair_of_them_is_that_of_networks_for_any_leading_dimensions(name):
    make, batch = CASES[name]
    torch.manual_seed(1)
    plain, folded = make(lambda network, event_dim: network).eval(), make(Fold).eval()
    for own, other in zip(plain.parameters(), folded.parameters(), strict=True):
        other.data.copy_(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for pair in (plain, folded):
            torch.manual_seed(2)
            found.append((*(pair.log_weights(batch, num).log_w for num in (1, 3)), pair.sample(batch)))
    torch.testing.assert_close(*found)


def test_a_generator_with_batch_norm_is_drawn_from_without_learning_from_it():
    """A generator in training mode would learn from the draw that tells its shape, or refuse a single one."""
    for generator in (normed(2, 5), nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (2, 2, 2)), nn.BatchNorm2d(2))):
        before = {name: b.clone() for name, b in generator.named_buffers()}
        gan = GAN(generator, nn.Sequential(nn.Flatten(), nn.LazyLinear(1)), 2)
        assert gan.sample(3).shape[1:] == gan.example.shape[1:]
        assert all(module.training for module in generator.modules())
        torch.testing.assert_close(dict(generator.named_buffers()), before)
