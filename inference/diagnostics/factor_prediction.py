"""How well single latents, or all of them, predict the factors: SAP and DCI."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC

TREES = 10


def separated_attribute_predictability(
    latents: np.ndarray, factors: np.ndarray, categorical: tuple[bool, ...]
) -> float:
    """SAP: by how much the latent that predicts a factor best does so better than the next; the mean over factors.

    How well: the squared correlation for factors with an order, the accuracy of a linear classifier of this latent
    alone, on held-out halves, for those without.

    Source: Kumar et al. 2018 (arXiv:1711.00848).

    Args:
        latents: `[N, D]`.
        factors: `[N, F]`, whole numbers.
        categorical: whether each factor is without an order.

    Example:
        >>> v = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> separated_attribute_predictability(v * 1.0, v, (False, False))
        1.0
    """
    gaps = []
    for v, unordered in zip(factors.T, categorical, strict=True):
        scores = np.sort([_accuracy(z[:, None], v) if unordered else _squared_correlation(z, v) for z in latents.T])
        gaps.append(scores[-1] - (scores[-2] if len(scores) > 1 else 0.0))
    return float(np.mean(gaps))


def _squared_correlation(z: np.ndarray, v: np.ndarray) -> float:
    return float(np.corrcoef(z, v)[0, 1] ** 2) if z.std() > 0 else 0.0


def _accuracy(z: np.ndarray, v: np.ndarray) -> float:
    half, scale = len(z) // 2, z.std(0) + 1e-12
    model = LinearSVC(C=1.0, random_state=0).fit(z[:half] / scale, v[:half])
    return float((model.predict(z[half:] / scale) == v[half:]).mean())


def disentanglement_completeness_informativeness(
    latents: np.ndarray, factors: np.ndarray, seed: int
) -> dict[str, float]:
    """DCI: from how much a forest of decision trees, one for each factor, uses each latent.

    *Disentanglement*: each latent is used for one factor alone: one minus the entropy of its uses, in units of log F,
    the mean weighted by use. *Completeness*: each factor is predicted from one latent alone. *Informativeness*: the
    forests' accuracy on a held-out half.

    Source: Eastwood & Williams 2018 (ICLR).

    Args:
        latents: `[N, D]`.
        factors: `[N, F]`, whole numbers.
        seed: of the forests.
    """
    half, uses, accuracies = len(latents) // 2, [], []
    for v in factors.T:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed).fit(latents[:half], v[:half])
        uses.append(forest.feature_importances_)
        accuracies.append((forest.predict(latents[half:]) == v[half:]).mean())
    return scores_of_uses(np.array(uses).T) | {"informativeness": float(np.mean(accuracies))}


def scores_of_uses(uses: np.ndarray) -> dict[str, float]:
    """Disentanglement and completeness of how much latents are used for factors, `[D, F]`.

    Example:
        >>> scores_of_uses(np.eye(3)), scores_of_uses(np.ones((4, 4)))["completeness"]
        ({'disentanglement': 1.0, 'completeness': 1.0}, 0.0)
    """
    with np.errstate(invalid="ignore"):  # NaN where nothing is used, and for the one latent that all is predicted from
        shares = uses.sum(1) / uses.sum()
        return {
            "disentanglement": float(shares @ (1 - _entropy(uses))),
            "completeness": float(np.mean(1 - _entropy(uses.T))),
        }


def _entropy(rows: np.ndarray) -> np.ndarray:
    """Of each row as a distribution, in units of the largest that it can be; of a row of zeros, that."""
    total = rows.sum(1, keepdims=True)
    p = np.where(total > 0, rows / np.where(total > 0, total, 1), 1 / rows.shape[1])
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(rows.shape[1])
