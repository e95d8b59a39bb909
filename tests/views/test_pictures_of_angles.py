"""Angles in pictures go around their circle, as everywhere else."""

import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.image_pairs import SHAPE, tiles

from ppvae import Pair
from ppvae.views import decoding, pictures

NEAR_PI = 3.1
STEPS = torch.linspace(-3, 3, 11)


class Turning(Pair):
    """`z ~ VonMises(3.1, c)`, on both sides of pi; each pixel has logit z. The guide draws about -3.1."""

    def __init__(self, concentration):
        super().__init__()
        self.concentration = concentration

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.tensor(NEAR_PI), self.concentration))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(*z.shape, 6)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(torch.full((len(x),), -NEAR_PI), 40.0))


def turn(angle):
    return torch.atan2(angle.sin(), angle.cos())


def spread_by_grid(concentration):
    """`sqrt(-2 log E cos z)` for z about 0."""
    z = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    density = (concentration * z.cos()).exp()
    return (-2 * ((density * z.cos()).sum() / density.sum()).log()).sqrt().item()


@pytest.mark.parametrize("concentration", [30.0, 2.0, 0.01])
def test_a_traversal_goes_around_the_circle(concentration):
    """By its spread, and no further than once around."""
    figure = plt.figure()
    ax = figure.subplots()
    pictures.traversals(ax, Turning(concentration), torch.rand(4, 6).round(), SHAPE)
    reach = min(spread_by_grid(concentration), math.pi / 3)
    angle = turn(NEAR_PI + STEPS * reach)
    torch.testing.assert_close(tiles(ax, 11)[0], angle.sigmoid()[:, None].expand(-1, 6), atol=2e-3, rtol=0)
    plt.close(figure)


def test_the_posterior_mean_is_a_direction():
    means = decoding.posterior_means(Turning(2.0), torch.zeros(3, 6))
    torch.testing.assert_close(means["z"], torch.full((3,), -NEAR_PI))


def test_a_temperature_draws_angles_together_the_short_way():
    for scale in (0.5, 1.0):
        torch.manual_seed(0)
        with poutine.trace() as tracer, decoding.Tempered(scale):
            Turning(2.0).model(torch.zeros(5000, 6))
        tempered = tracer.trace.nodes["z"]["value"]
        torch.manual_seed(0)
        plain = dist.VonMises(torch.tensor(NEAR_PI), 2.0).expand([5000]).sample()
        assert tempered.abs().max() <= math.pi + 1e-6
        off = turn(tempered - turn(NEAR_PI + scale * turn(plain - NEAR_PI)))
        assert off.abs().max() < 1e-4
