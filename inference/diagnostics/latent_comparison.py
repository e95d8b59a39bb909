"""Representations side by side: how far each latent stands for one factor of the data, by eight scores."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ppvae.arguments import Seed, checked
from ppvae.inference.diagnostics.cells import Cell, Table
from ppvae.inference.diagnostics.factor_information import modularity, mutual_information_gap
from ppvae.inference.diagnostics.factor_interventions import Encode, beta_vae_score, factor_vae_score
from ppvae.inference.diagnostics.factor_prediction import (
    disentanglement_completeness_informativeness,
    separated_attribute_predictability,
)
from ppvae.inference.runtime.chunks import evaluating
from ppvae.pair import Pair
from ppvae.rules import Whole
from ppvae.sprites import FACTORS, Sprites

SCORES = (
    *("beta-VAE score", "FactorVAE score", "MIG", "SAP", "modularity"),
    *("disentanglement", "completeness", "informativeness"),
)

TRUTH, NOISE = "the factors themselves", "noise"


@checked
def compare_latents(
    sources: Mapping[str, Pair | Callable[[Tensor], Tensor]],
    sprites: Sprites,
    num_points: Annotated[int, Whole(at_least=100)] = 1000,
    num_sets: Annotated[int, Whole(at_least=2)] = 5,
    *,
    seed: Seed | None = None,
) -> Table:
    """Representations by how far each latent stands for one factor of the data, by eight scores, each from 0 to 1.

    | score                                               | what it asks                                         |
    |-----------------------------------------------------|------------------------------------------------------|
    | `beta-VAE score`                                    | can one tell which factor two images share?          |
    | `FactorVAE score`                                   | does one latent stay as it is with a factor?         |
    | `MIG`                                               | does one latent know more about a factor than others?|
    | `SAP`                                               | does one latent predict a factor better than others? |
    | `modularity`                                        | does each latent know about one factor alone?        |
    | `disentanglement`, `completeness` (DCI)             | is each latent used for one factor, and vice versa?  |
    | `informativeness` (DCI)                             | are the factors in the latents at all?               |

    Each is the mean over `num_sets` fresh sets of images, with its standard error. All are biased at finite N, and each
    in another way, so two representations of known worth are scored beside those that are given: the factors
    themselves, which a perfect score gives 1, and noise, of as many numbers as there are factors.

    When it is wrong: the errors are over images for *one* trained model; another seed of its training may differ by
    more. The scores do not agree with each other. None says what picks the axes: a rotation of the latents that leaves
    the evidence as it is changes all of them.

    Source: Locatello et al. 2019 (arXiv:1811.12359), and with each score.

    Args:
        sources: by name, pairs, of which the guide's means are taken; or functions of images `[N, width^2]` that return
            latents `[N, D]`.
        sprites: the images and their factors.
        num_points: N, images in each set.
        num_sets: how many sets are drawn.
        seed: makes the result reproducible and leaves the caller's generators as they were.

    Returns:
        A `Table` of scores.

    Raises:
        ValueError: a pair with more than one latent site, or latents of another shape.

    Example:
        >>> from ppvae.datasets import Sprites
        >>> table = compare_latents({"pixels": lambda x: x[:, ::8]}, Sprites.small(), 300, 2, seed=0)
        >>> table["the factors themselves"]["MIG"].estimate > table["pixels"]["MIG"].estimate
        True
    """
    start = int(torch.randint(2**62, ())) if seed is None else seed
    encoders: dict[str, Encode] = {
        name: partial(_encoded, name, source, sprites, seed) for name, source in sources.items()
    }
    noise = torch.Generator().manual_seed(start)
    encoders |= {TRUTH: _themselves, NOISE: lambda v: torch.randn(v.shape, generator=noise).numpy()}
    cells: dict[str, dict[str, Cell]] = {}
    for name, encode in encoders.items():
        sets = [_scores(encode, sprites, num_points, (start + i) % 2**32) for i in range(num_sets)]
        found = {score: np.array([one[score] for one in sets]) for score in SCORES}
        cells[name] = {
            score: Cell(float(values.mean()), float(values.std(ddof=1) / num_sets**0.5))
            if np.isfinite(values).all()
            else Cell(undefined="there is one latent, or none that says anything about any factor")
            for score, values in found.items()
        }
    return Table(cells, dict.fromkeys(SCORES, 1.0), f"{num_sets} sets of {num_points} images")


def _encoded(
    name: str, source: Pair | Callable[[Tensor], Tensor], sprites: Sprites, seed: int | None, factors: Tensor
) -> np.ndarray:
    """The latents of images with these factors, `[N, D]`."""
    x = sprites.draw(factors)
    if isinstance(source, Pair):
        with evaluating(source, seed):
            found = source.encode(x)
        if isinstance(found, dict):
            raise ValueError(
                f"sources: found {name!r} with latents {list(found)}, expected one; pass a function that returns them "
                "as one tensor"
            )
        z = found.mean
    else:
        with torch.no_grad():
            z = source(x)
    if z.dim() < 2 or len(z) != len(x):
        raise ValueError(f"sources: found latents of {name!r} of shape {list(z.shape)}, expected [{len(x)}, D]")
    if not z.isfinite().all():
        raise ValueError(
            f"sources: found latents of {name!r}, {int((~z.isfinite()).sum())} numbers of them not finite, expected "
            "finite ones; is a parameter NaN?"
        )
    return z.detach().flatten(1).double().cpu().numpy()


def _themselves(factors: Tensor) -> np.ndarray:
    return factors.double().numpy()


def _scores(encode: Encode, sprites: Sprites, num_points: int, seed: int) -> dict[str, float]:
    """All scores on a fresh set of images."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sprites.factor_sizes
    factors = torch.stack([torch.randint(n, (num_points,), generator=generator) for n in sizes], 1)
    z, v = encode(factors), factors.numpy()
    unordered = tuple(name == "form" for name in FACTORS)
    return {
        "beta-VAE score": beta_vae_score(encode, sizes, generator),
        "FactorVAE score": factor_vae_score(encode, sizes, generator),
        "MIG": mutual_information_gap(z, v),
        "SAP": separated_attribute_predictability(z, v, unordered),
        "modularity": modularity(z, v),
        **disentanglement_completeness_informativeness(z, v, seed),
    }
