"""Temperatures and resampled layers: every image is `sigmoid` of latents that are known, or lie where they must."""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.functions import Functions
from support.image_pairs import SHAPE, Chain, labels, tiles

from ppvae import ContractError
from ppvae.models import VAE
from ppvae.views import pictures


@pytest.fixture
def ax():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


def latents(found):
    """a, b and c of `Chain`, from its images `[..., 6]`: each is shown twice."""
    pairs = found.logit().unflatten(-1, (3, 2))
    torch.testing.assert_close(pairs[..., 0], pairs[..., 1])
    return pairs[..., 0].unbind(-1)


def test_temperature_multiplies_standard_deviations(ax):
    """`a = 0.5 + t 2 e`, `b = 2 a + t 0.1 e'`, `c = t e''`, the noise e as at t = 1."""
    scales = (0.0, 0.3, 1.0)
    pictures.temperatures(ax, Chain(), SHAPE, scales, seed=4)
    a, b, c = latents(tiles(ax, 10))
    close = {"atol": 1e-3, "rtol": 1e-3}
    for row, t in enumerate(scales):
        torch.testing.assert_close(a[row] - 0.5, t * (a[2] - 0.5), **close)
        torch.testing.assert_close(b[row] - 2 * a[row], t * (b[2] - 2 * a[2]), **close)
        torch.testing.assert_close(c[row], t * c[2], **close)
    assert a[2].std() > 1
    assert labels(ax.yaxis) == ["t = 0", "t = 0.3", "t = 1"]


def test_temperature_one_is_the_model(ax, assert_mean):
    """Its draws have the model's mean and variance; over many seeds."""
    drawn = []
    for seed in range(60):
        ax.clear()
        pictures.temperatures(ax, Chain(), SHAPE, (1.0,), seed)
        drawn.append(torch.stack(latents(tiles(ax, 10)), -1)[0])
    a, b, c = torch.cat(drawn).unbind(-1)
    standard = torch.stack([(a - 0.5) / 2, (b - 2 * a) / 0.1, c], -1)
    assert_mean(standard, 0.0, k=4.5)
    assert_mean(standard.square(), 1.0, k=4.5)


def test_layers_are_kept_from_the_models_first(ax):
    """Those kept are the guide's, a = x[0], b = 0.3, c = -0.7; the others are drawn given them."""
    x = torch.tensor([[0.0, 1, 1, 0, 1, 0], [1.0, 0, 0, 0, 1, 1]]).repeat(4, 1)
    pictures.resampled_layers(ax, Chain(), x, SHAPE)
    found = tiles(ax, 8)
    torch.testing.assert_close(found[0], x)
    a, b, c = latents(found[1:])
    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(a, x[:, 0].expand(3, 8), **close)
    torch.testing.assert_close(b[1:], torch.full((2, 8), 0.3), **close)
    torch.testing.assert_close(c[2], torch.full((8,), -0.7), **close)
    anew = (b[0] - 2 * x[:, 0]) / 0.1
    assert anew.abs().max() < 4
    assert anew.std() > 0.3
    assert c[:2].std(1).min() > 0.3
    assert labels(ax.yaxis) == ["data", "a", "+ b", "+ c"]


def test_at_most_ten_points_are_shown(ax):
    pictures.resampled_layers(ax, Chain(), torch.rand(13, 6).round(), SHAPE)
    assert tiles(ax, 10).shape == (4, 10, 6)


def test_discrete_latents_are_drawn_as_they_are(ax):
    """A switch between two means; its draws do not shrink, those of what depends on it do, to its mean."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(4 * c - 2, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(*z.shape, 6)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5 * torch.ones(len(x))))
            pyro.sample("z", dist.Normal(4 * c - 2, 1.0))

    pair = Functions(model, guide)
    pair.example = torch.zeros(1, 6)
    pair.scale = torch.nn.Parameter(torch.ones(()))
    pictures.temperatures(ax, pair, SHAPE, (0.0,))
    assert set(tiles(ax, 10).logit().round().flatten().tolist()) <= {-2.0, 2.0}


def test_what_is_refused(ax):
    with pytest.raises(ValueError, match=r"scales: found .*, expected one or more temperatures"):
        pictures.temperatures(ax, Chain(), SHAPE, (1.0, -0.5))
    with pytest.raises(ContractError, match=r"found latent sites \['z'\], expected two or more"):
        pictures.resampled_layers(ax, VAE.mlp(6, 2, [5]), torch.rand(3, 6).round(), SHAPE)

    class Wide(Chain):
        def model(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("a", dist.Cauchy(0.0, 1.0).expand([1]).to_event(1))

    with pytest.raises(ContractError, match="model site 'a': found Cauchy, which has no mean"):
        pictures.temperatures(ax, Wide(), SHAPE)
