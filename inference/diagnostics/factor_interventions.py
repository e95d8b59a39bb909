"""Scores of which latents stay as they are while one factor is held fixed: beta-VAE's and FactorVAE's."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

BATCH, VOTES = 16, 200
"""Images of one value of a factor from which one vote is taken; and votes, half of them for training."""

DEAD = 0.05
"""The standard deviation, in units of the largest, below which a latent is not used."""

Encode = Callable[[Tensor], np.ndarray]
"""Of factors `[N, F]`; returns the latents of their images, `[N, D]`."""


def beta_vae_score(encode: Encode, factor_sizes: tuple[int, ...], generator: torch.Generator) -> float:
    """The accuracy with which a linear classifier tells which factor two sets of images share, from the mean distance
    of their latents.

    Source: Higgins et al. 2017 (ICLR).

    Args:
        encode: latents of the images with given factors.
        factor_sizes: how many values each has.
        generator: for the factors.
    """
    shared, first = _held(factor_sizes, generator)
    _, second = _held(factor_sizes, generator, shared)
    index = torch.arange(VOTES)
    second[index, :, shared] = first[index, :, shared]
    z, other = (encode(v.flatten(0, 1)).reshape(VOTES, BATCH, -1) for v in (first, second))
    distance = np.abs(z - other).mean(1)
    distance /= distance.std() + 1e-12
    half = VOTES // 2
    model = LogisticRegression(max_iter=2000).fit(distance[:half], shared[:half].numpy())
    return float((model.predict(distance[half:]) == shared[half:].numpy()).mean())


def factor_vae_score(encode: Encode, factor_sizes: tuple[int, ...], generator: torch.Generator) -> float:
    """The accuracy with which the latent that varies least, in units of its own variance, tells which factor is fixed,
    by a vote of the majority.

    Source: Kim & Mnih 2018 (arXiv:1802.05983).

    Args:
        encode: latents of the images with given factors.
        factor_sizes: how many values each has.
        generator: for the factors.
    """
    whole = torch.stack([torch.randint(n, (10 * BATCH,), generator=generator) for n in factor_sizes], 1)
    spread = encode(whole).std(0)
    used = spread > DEAD * spread.max()
    if not used.any():
        return 1 / len(factor_sizes)
    shared, factors = _held(factor_sizes, generator)
    index = torch.arange(VOTES)
    factors[index, :, shared] = factors[index, :1, shared]
    z = encode(factors.flatten(0, 1)).reshape(VOTES, BATCH, -1)
    least = (z.var(1)[:, used] / spread[used] ** 2).argmin(1)
    votes = np.zeros((used.sum(), len(factor_sizes)))
    half = VOTES // 2
    np.add.at(votes, (least[:half], shared[:half].numpy()), 1)
    return float((votes.argmax(1)[least[half:]] == shared[half:].numpy()).mean())


def _held(
    factor_sizes: tuple[int, ...], generator: torch.Generator, shared: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which factor is to be held in each vote, `[VOTES]`, and random factors, `[VOTES, BATCH, F]`."""
    if shared is None:
        shared = torch.randint(len(factor_sizes), (VOTES,), generator=generator)
    return shared, torch.stack([torch.randint(n, (VOTES, BATCH), generator=generator) for n in factor_sizes], -1)
