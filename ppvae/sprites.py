"""Sprites: small binary images of a shape, whose factors (form, size, angle, place) are known exactly."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ppvae.arguments import Count, Size, checked
from ppvae.rules import Whole

Three = Annotated[int, Whole(at_least=1, limit=3)]
FACTORS = ("form", "size", "angle", "across", "down")
CHUNK = 500
"""Images that are drawn at once."""


@checked
@dataclass(frozen=True)
class Sprites:
    """Images of a square, an ellipse or a heart, white on black, at each of some sizes, angles and places.

    As dSprites has them, 737,280 images of 64 x 64 by default; but none is stored: each is drawn when it is asked for,
    from its factors, by the formula of its outline. A square's angle is known only up to a quarter turn, an ellipse's
    up to a half: no representation can know more.

    Source: Matthey et al. 2017 (dSprites).

    Attributes:
        forms: 1 to 3 of: square, ellipse, heart.
        sizes, angles, places: how many values each factor has; `places` for both across and down.
        width: of the image, in pixels.

    Example:
        >>> sprites = Sprites.small()
        >>> factors, x = sprites.sample(5, torch.Generator().manual_seed(0))
        >>> factors.shape, x.shape, sprites.num_images
        (torch.Size([5, 5]), torch.Size([5, 256]), 4608)
    """

    forms: Three = 3
    sizes: Count = 6
    angles: Count = 40
    places: Count = 32
    width: Size = 64

    @staticmethod
    def small() -> "Sprites":
        """3 x 3 x 8 x 8 x 8 images of 16 x 16."""
        return Sprites(sizes=3, angles=8, places=8, width=16)

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has, in the order of `FACTORS`."""
        return (self.forms, self.sizes, self.angles, self.places, self.places)

    @property
    def num_images(self) -> int:
        """How many different factors there are."""
        return math.prod(self.factor_sizes)

    @checked
    def sample(self, num: Count, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Random factors, all independent and uniform, `[N, 5]`, and their images, `[N, width^2]`."""
        factors = torch.stack([torch.randint(n, (num,), generator=generator) for n in self.factor_sizes], 1)
        return factors, self.draw(factors)

    @checked
    def draw(self, factors: Tensor) -> Tensor:
        """The images, float32 `[N, width^2]`, of factors, int64 `[N, 5]`, each from 0 to its size less one."""
        if factors.dim() != 2 or factors.shape[1] != len(FACTORS) or factors.is_floating_point():
            raise ValueError(
                f"factors: found {factors.dtype} of shape {list(factors.shape)}, expected whole numbers of shape [N, 5]"
            )
        if (outside := ((factors < 0) | (factors >= torch.tensor(self.factor_sizes))).nonzero()).numel():
            row, column = outside[0].tolist()
            raise ValueError(
                f"factors: found {int(factors[row, column])} for {FACTORS[column]} at row {row}, expected 0 to "
                f"{self.factor_sizes[column] - 1}"
            )
        return torch.cat([self._drawn(few) for few in factors.split(CHUNK)])

    def _drawn(self, factors: Tensor) -> Tensor:
        form, size, angle, across, down = factors.double().T[:, :, None]
        pixel = (torch.arange(self.width) + 0.5).double() * (2 / self.width) - 1
        y, x = (t.flatten() for t in torch.meshgrid(pixel, pixel, indexing="ij"))
        radius = 0.2 + 0.15 * (size + 1) / self.sizes
        turn = angle * (2 * math.pi / self.angles)

        dx, dy = x - 0.5 * _evenly(across, self.places), y - 0.5 * _evenly(down, self.places)
        u, v = (turn.cos() * dx + turn.sin() * dy) / radius, (turn.cos() * dy - turn.sin() * dx) / radius
        inside = torch.stack([_square(u, v), _ellipse(u, v), _heart(u, v)])
        return inside[form.long().squeeze(1), torch.arange(len(factors))].float()


def _evenly(place: Tensor, num: int) -> Tensor:
    """Places 0 ... num - 1 as numbers from -1 to 1."""
    return place * (2 / (num - 1)) - 1 if num > 1 else torch.zeros_like(place)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 0.8


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + (v / 0.5).square() <= 1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    u, v = 1.2 * u, 0.1 - 1.2 * v
    return (u.square() + v.square() - 1) ** 3 <= u.square() * v**3
