"""What each latent says about each factor, in nats; and the scores that are made of it: MIG and modularity."""

import math

import numpy as np
from sklearn.metrics import mutual_info_score

BINS = 20
"""Of equal width, into which the values of a latent are put."""


def information(latents: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mutual information of each latent (binned) and each factor, in nats, `[D, F]`, as counted; so it is too high.

    Args:
        latents: `[N, D]`.
        factors: `[N, F]`, whole numbers.
    """
    return np.array([[mutual_info_score(b, v) for v in factors.T] for b in map(_binned, latents.T)])


def entropies(factors: np.ndarray) -> np.ndarray:
    """Entropy of each factor, in nats, as counted, `[F]`."""
    return np.array([mutual_info_score(v, v) for v in factors.T])


def mutual_information_gap(latents: np.ndarray, factors: np.ndarray) -> float:
    """MIG: by how much the latent that knows most about a factor knows more than the next, in units of the factor's
    entropy; the mean over factors.

    Source: Chen et al. 2018 (arXiv:1802.04942).

    Example:
        >>> v = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> mutual_information_gap(v * 1.0, v), mutual_information_gap(v.repeat(2, 1) * 1.0, v)
        (1.0, 0.0)
    """
    nats = np.sort(information(latents, factors), axis=0)
    second = nats[-2] if len(nats) > 1 else 0.0
    return float(np.mean((nats[-1] - second) / entropies(factors)))


def modularity(latents: np.ndarray, factors: np.ndarray) -> float:
    """How much each latent is about one factor alone: `1 - sum of the other squared informations / ((F - 1) max^2)`,
    the mean over latents.

    Source: Ridgeway & Mozer 2018 (arXiv:1802.05312).

    Example:
        >>> v = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> modularity(v * 1.0, v)
        1.0
    """
    squares = np.square(information(latents, factors))
    most = squares.max(1)
    others = squares.sum(1) - most
    useful = most > 0
    if not useful.any():
        return math.nan
    return float(np.mean(1 - others[useful] / ((squares.shape[1] - 1) * most[useful])))


def _binned(z: np.ndarray) -> np.ndarray:
    return np.digitize(z, np.histogram(z, BINS)[1][:-1])
