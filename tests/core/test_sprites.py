"""Sprites are what their factors say."""

import math

import pytest
import torch

from ppvae.datasets import Sprites


def moments(x, width):
    """Area, and the center across and down, of images, in units where the image is from -1 to 1."""
    pixel = (torch.arange(width) + 0.5) * 2 / width - 1
    image = x.view(-1, width, width)
    area = image.sum((1, 2))
    return area * 4 / width**2, (image.sum(1) @ pixel) / area, (image.sum(2) @ pixel) / area


def test_full_sprites_are_as_many_as_dsprites():
    assert Sprites().factor_sizes == (3, 6, 40, 32, 32)
    assert Sprites().num_images == 737_280


def test_areas_and_places_are_those_of_the_formulas():
    """To within the pixels on the outline."""
    sprites = Sprites(width=128)
    factors, x = sprites.sample(60, torch.Generator().manual_seed(0))
    area, across, down = moments(x, 128)
    radius = 0.2 + 0.15 * (factors[:, 1] + 1) / 6
    exact = torch.stack([(2 * 0.8 * radius) ** 2, math.pi * 0.5 * radius**2])
    for form in (0, 1):
        own = factors[:, 0] == form
        assert (area[own] / exact[form][own] - 1).abs().max() < 0.05
        assert (across[own] - (factors[own, 3] / 31 - 0.5)).abs().max() < 0.02
        assert (down[own] - (factors[own, 4] / 31 - 0.5)).abs().max() < 0.02


def test_angles_turn_the_sprite():
    sprites = Sprites(angles=4, places=1, width=33)
    heart = sprites.draw(torch.tensor([[2, 5, a, 0, 0] for a in range(4)])).view(4, 33, 33)
    for a in range(1, 4):
        assert any(torch.equal(heart[a], torch.rot90(heart[0], turn * a)) for turn in (1, -1))
    assert not torch.equal(heart[0], heart[2])
    square = sprites.draw(torch.tensor([[0, 5, a, 0, 0] for a in range(4)]))
    assert torch.equal(square[0], square[1])  # no representation can tell


def test_factors_outside_are_refused():
    with pytest.raises(ValueError, match="factors: found 3 for form at row 1, expected 0 to 2"):
        Sprites.small().draw(torch.tensor([[0, 0, 0, 0, 0], [3, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"factors: found torch.float32 of shape \[2, 5\], expected whole numbers"):
        Sprites.small().draw(torch.zeros(2, 5))
