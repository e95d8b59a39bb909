"""A local test: at a given data point, can a classifier tell a guide's draws from the model's latents?"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch, num_rows, numbers, rows
from ppvae.conversion import to_pair
from ppvae.inference.diagnostics.simulated_latents import (
    Simulations,
    continuous_view,
    guided,
    refuse_not_numbers,
    refuse_undefined,
    simulated,
    spread,
)
from ppvae.inference.runtime.chunks import over_data, sizes
from ppvae.inference.runtime.measuring import measuring
from ppvae.inference.runtime.sharing import measurement
from ppvae.latent_view import LatentView
from ppvae.own_rows import refuse_simulated_rows
from ppvae.pair import Pair
from ppvae.rules import Whole

Permutations = Annotated[
    int, Whole(at_least=19, limit=10**7, said="a whole number of at least 19, so that a p-value can be 0.05")
]
RIDGE = 10.0
"""What the regression adds to the kernel's diagonal of one: what fewer than ten simulations say counts little."""


@checked
@measurement
def local_classifier_test(
    pair: Pair,
    data: Any,
    num_simulations: Simulations = 1000,
    num_samples: Count = 100,
    num_permutations: Permutations = 199,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> xr.Dataset:
    """Local classifier two-sample test (L-C2ST): is the guide the model's posterior at these data points?

    A classifier c(z, x) is trained to tell latents of the model, `(x, z) ~ p(x, z)`, from draws of the guide for the
    same x. Its statistic at a data point x is `mean_l (c(z_l, x) - 1/2)^2` over draws `z_l ~ q(z | x)`: zero where it
    cannot tell. Under the null, coins decide for each simulation whether z and the draw change labels before another
    classifier is trained. If the guide is exact everywhere, the first classifier is as any of these, whatever its kind,
    and p-values are exact. `adjusted_p_value` allows for the number of data points, by the largest statistic of each
    classifier (Westfall and Young's): with an exact guide it is at most 0.05 anywhere once in twenty runs.

    Classifiers are kernel ridge regressions of the label, so that those of the null cost one factorization together.
    The kernel is Gaussian in z, unconstrained and standardized by the guide's draws for each x. One half of it
    disregards x and learns what is wrong everywhere; the other learns from similar x.

    When it is wrong: what is wrong at many x may show at others, too, where the guide is right. With few simulations
    like a data point the test has little power there: a large p-value proves nothing. Of data that the model would not
    draw there are none, and only what is wrong everywhere shows.

    Source: Linhart et al. 2023 (arXiv:2306.03580); Kim et al. 2019 (arXiv:1812.08927) for regression in place of
    classification; Westfall & Young 1993 for the adjustment.

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict). Simulations take what the model only reads (lengths,
            labels, covariates) from them, evenly.
        num_simulations: S, pairs (x, z) drawn from the model; at least 10. Memory grows with its square, time with its
            cube.
        num_samples: draws from the guide for each data point, and for each simulation to standardize by.
        num_permutations: classifiers under the null, at least 19. No p-value is below `1 / (1 + num_permutations)`.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Returns:
        A dataset over `data`: `statistic`, 1/4 where the classifier is certain; `p_value` of each data point by itself;
        and `adjusted_p_value`, of all together.

    Raises:
        EvidenceUndefined: the pair declares that it has no density.
        ContractError: as `ppvae.expected_coverage`.
        ValueError: a count too small, a latent that is not a number, or data that are not finite or outside the
            likelihood's support (the row is named).

    Example:
        >>> from ppvae.models import LinearVAE
        >>> _ = torch.manual_seed(0)
        >>> pair = LinearVAE(num_features=3, num_latents=2, guide="exact")
        >>> ds = local_classifier_test(pair, pair.sample(5), num_simulations=200, seed=0)
        >>> bool(ds.adjusted_p_value.min() > 0.01)
        True
    """
    refuse_undefined(pair)
    refuse_simulated_rows(pair)
    with measuring(pair, data, seed) as batch:
        evenly = rows(batch, torch.arange(num_simulations) * num_rows(batch) // num_simulations)
        view = continuous_view(pair, to_pair(rows(batch, slice(2)), pair))
        pairs = partial(_labeled, pair, view, num_permutations)
        found = over_data(pair, evenly, num_samples, pairs, "simulations" if progress else None)
        refuse_not_numbers(pair, "a latent", torch.cat([found["truth"], found["guided"]]))
        classifiers = _Classifiers.trained(**found)
        statistics = partial(_statistics, pair, view, classifiers)
        found = over_data(pair, batch, num_samples, statistics, "data points" if progress else None)
    statistic = found["statistic"].numpy()
    p_value, adjusted = _p_values(statistic)
    return xr.Dataset(
        {
            "statistic": ("data", statistic[:, 0]),
            "p_value": ("data", p_value),
            "adjusted_p_value": ("data", adjusted),
        },
        coords={"data": np.arange(len(statistic))},
        attrs={
            "num_simulations": num_simulations,
            "num_samples": num_samples,
            "num_permutations": num_permutations,
        },
    )


def _labeled(
    pair: Pair, view: LatentView, num_permutations: int, batch: Batch, num_samples: int, at_once: int
) -> dict[str, Tensor]:
    """New data, their latents and a draw of the guide, both standardized, and whether each classifier swaps these."""
    x, truth = simulated(pair, view, batch)
    draws = guided(pair, view, x, num_samples, at_once)
    mean, scale = draws.mean(0), spread(draws)
    return {
        "truth": (truth - mean) / scale,
        "guided": (view.draw(pair, x, 1)[0] - mean) / scale,
        "data": numbers(x),
        "signs": 2 * torch.randint(2, (num_rows(x), num_permutations)) - 1,
    }


def _statistics(
    pair: Pair, view: LatentView, classifiers: "_Classifiers", batch: Batch, num_samples: int, at_once: int
) -> dict[str, Tensor]:
    """The statistic of each classifier at each data point, `[B, 1 + H]`."""
    draws = guided(pair, view, batch, num_samples, at_once)
    mean, scale = draws.mean(0), spread(draws)
    total = torch.zeros(num_rows(batch), classifiers.weights.shape[1], dtype=torch.float64)
    for size in sizes(num_samples, at_once):
        z = (view.draw(pair, batch, size) - mean) / scale
        total += (classifiers(z, numbers(batch)) / 2).square().sum(0)
    return {"statistic": total / num_samples}


@dataclass(frozen=True)
class _Classifiers:
    """Kernel ridge regressions of labels, 1 for latents of the model and -1 for draws of the guide.

    The first has the true labels, the others swap some pairs.
    """

    latents: Tensor
    """`[2 S, D]`, standardized: of the model, then of the guide."""
    data: Tensor
    """`[S, F']`, those of F numbers that are `varying`, standardized by `mean` and `scale`."""
    varying: Tensor
    mean: Tensor
    scale: Tensor
    weights: Tensor
    """Of the kernel at each of them, for each classifier, `[2 S, 1 + H]`."""

    @classmethod
    def trained(cls, truth: Tensor, guided: Tensor, data: Tensor, signs: Tensor) -> "_Classifiers":
        latents, varying = torch.cat([truth, guided]).double(), data.std(0) > 0
        mean, scale = data[:, varying].mean(0), data[:, varying].std(0)
        data = (data[:, varying] - mean) / scale
        kernel = _kernel(latents, latents, data.repeat(2, 1), data)
        kernel.diagonal().add_(RIDGE)
        labels = torch.cat([torch.ones(len(data), 1), signs], 1).double()
        weights = torch.cholesky_solve(torch.cat([labels, -labels]), torch.linalg.cholesky(kernel))
        return cls(latents, data, varying, mean, scale, weights)

    def __call__(self, latents: Tensor, data: Tensor) -> Tensor:
        """Predicted labels, `[L, B, 1 + H]`, of latents `[L, B, D]` at data `[B, F]`."""
        data = (data.cpu()[:, self.varying] - self.mean) / self.scale
        flat = latents.cpu().double().flatten(0, 1)
        found = _kernel(flat, self.latents, data.repeat(len(latents), 1), self.data) @ self.weights
        return found.reshape(*latents.shape[:2], -1)


def _kernel(latents: Tensor, others: Tensor, data: Tensor, other_data: Tensor) -> Tensor:
    """Between rows, in [0, 1]; half of it disregards the data. `others` are two for each of `other_data`."""
    near = torch.cdist(latents, others).square() / (2 * latents.shape[1])
    like = torch.cdist(data, other_data).square() / (4 * max(1, data.shape[1]))  # about 1/2 between unlike rows
    return (-near).exp() * (1 + (-like).exp().repeat(1, 2)) / 2


def _p_values(statistic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each data point by itself, and of all together, from `[N, 1 + H]`, the classifier of the true labels first."""
    log = np.log(statistic)
    log = (log - log.mean(1, keepdims=True)) / log.std(1, keepdims=True)
    worst = log.max(0)
    return (log >= log[:, :1]).mean(1), (worst >= log[:, :1]).mean(1)
