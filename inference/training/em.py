"""Expectation maximization for mixtures: full batch, hard, and streaming.

A mixture takes part through the methods of `EMMixture`; nothing here knows what its components are.
"""

import copy
import math
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor
from tqdm.auto import tqdm

from ppvae.arguments import Count, Natural, NonNegative, Real, checked
from ppvae.devices import refuse_without_numbers
from ppvae.inference.training.data_weights import data_weights
from ppvae.inference.training.em_data import points_of, warn_of_atoms
from ppvae.inference.training.em_parameters import whole_or_not_at_all
from ppvae.progress import progress_bar
from ppvae.rules import Number, Whole
from ppvae.sources import is_stream

StartSeed = Annotated[int, Whole(at_least=0, limit=2**31)]
"""Of scikit-learn's generators, which take no more; one for each restart."""

StepExponent = Annotated[float, Number(above=0.5, at_most=1)]
RANDOM_STARTS = ("k-means++", "random")
PARAMETERS = ("weights", "means", "covariances")
EMPTY = 1e-3  # a component that owns less than this many data points is empty


class Statistics(Protocol):
    """The sufficient statistics of data, per component."""

    weight: Tensor

    def pool(self, other: Any, share: float) -> Any:
        """The moments of both pooled, with `share` of the other's data and `1 - share` of these."""

    def reseed(self, components: Tensor, points: Tensor) -> Any:
        """These moments with `components` `[M]` moved to `points` `[M, D]`."""


@runtime_checkable
class EMMixture(Protocol):
    """What EM needs of a mixture; `ppvae.models.GaussianMixture` says what each method does.

    No parameter is named here: from Python 3.12 on `isinstance` looks past those of a module.
    """

    num_components: int
    num_features: int

    def start(self, means: Tensor, variance: float) -> None: ...
    def e_step(self, x: Tensor, *, hard: bool = False, data_weights: Tensor | None = None) -> Any: ...
    def m_step(self, moments: Any, *, covariance_floor: float, update: Collection[str]) -> float: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


@checked
@dataclass(repr=False)
class EMResult:
    """How EM went.

    Attributes:
        history: mean log likelihood per data point, in nats: before the first iteration and after each one. Streaming:
            of each batch, before the update on it.
        num_iterations: how often the parameters were updated after the start; streaming: number of batches.
        converged: whether the last iteration changed the likelihood by no more than the tolerance. Streaming EM does
            not judge.
        restart: which restart won; the attributes above and `reseeded` are those of that restart.
        final_log_likelihoods: where each restart ended; mean per data point, in nats.
        reseeded: `(iteration, component)` for each empty component that was given a new place.
    """

    history: list[float] = field(default_factory=list)
    num_iterations: Natural = 0
    converged: bool = False
    restart: Natural = 0
    final_log_likelihoods: list[float] = field(default_factory=list)
    reseeded: list[tuple[int, int]] = field(default_factory=list)

    def __repr__(self) -> str:
        last = f", log likelihood {self.history[-1]:.3f}" if self.history else ""
        how = "converged" if self.converged else "stopped"
        return f"EMResult({how} after {self.num_iterations} iterations{last})"


@checked
def fit_em(
    mixture: EMMixture,
    data: Any,
    *,
    weights: Any = None,
    init: str | Tensor = "k-means++",
    restarts: Count = 1,
    max_iterations: Natural = 100,
    tolerance: Real = 1e-6,
    covariance_floor: NonNegative = 1e-6,
    hard: bool = False,
    update: Collection[str] = PARAMETERS,
    seed: StartSeed = 0,
    progress: bool = False,
) -> EMResult:
    """Trains a mixture by EM, in place, to a local maximum of the likelihood.

    E-step `r_nc = p(c | x_n)`; M-step `theta = argmax sum_nc r_nc log p(x_n, c; theta)`. The likelihood cannot fall,
    except by what the floor costs (which is known) and when an empty component is reseeded, as it is where means are
    learned: each iteration is checked. Hard EM gives a point to one component alone and climbs
    `sum_n max_c log p(x_n, c)`; from equal weights and equal spherical covariances, with `update=["means"]`, it is
    K-means. The maximum is a local one: use restarts. A component that shrinks onto few data points has a high
    likelihood and means little: raise the floor.

    Source: Dempster, Laird & Rubin 1977; Celeux & Govaert 1992 for hard EM; Arthur & Vassilvitskii 2007 for k-means++.

    Args:
        mixture: a `ppvae.models.GaussianMixture`. Computed in float64, whatever its dtype, on its device.
        data: N data points `[N, D]`, a tensor, an array or a table of pandas.
        weights: of the data points, `[N]`, not negative: one of weight 2 counts as two alike. All means over data
            points are weighted, those in the result too.
        init: "k-means++" or "random" (C of the data points become means, each point is assigned to the nearest, one
            M-step), the means `[C, D]` (likewise), or "current" (the mixture as it is).
        restarts: how many starts to try; the one that ends at the highest likelihood is kept.
        max_iterations: of each restart.
        tolerance: stop when the mean log likelihood changes by no more than this, in nats.
        covariance_floor: added to variances in each M-step, in squared units of the data; scikit-learn's `reg_covar`.
        hard: hard EM.
        update: which of "weights", "means" and "covariances" to learn.
        seed: restart i draws its start from `seed + i`.
        progress: show a bar.

    Raises:
        ValueError: bad data (the index is named), fewer data points than components, a bad option, or a frozen
            parameter that EM would change. The mixture is then as it was.
        FloatingPointError: the likelihood fell, or is not finite; so too.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> x = torch.tensor([[-5.1], [-4.9], [4.9], [5.1]])
        >>> mixture = GaussianMixture(num_components=2, num_features=1)
        >>> fit_em(mixture, x).converged
        True
        >>> mixture.means.detach().sort(0).values
        tensor([[-5.],
                [ 5.]])
    """
    refuse_without_numbers(mixture)
    x = points_of(data, mixture.num_features)
    own_weights = None if weights is None else data_weights(weights, len(x)).to(x.device)
    warn_of_atoms(x, covariance_floor)
    _check_init(mixture, init)
    if restarts > 1 and not (isinstance(init, str) and init in RANDOM_STARTS):
        raise ValueError(f"restarts: found {restarts} with init={init!r}, expected 1, or more with a random start")
    if not update or not set(update) <= set(PARAMETERS):
        raise ValueError(f"update: found {update!r}, expected a list of some of {', '.join(PARAMETERS)}")
    best, best_state, finals = EMResult(), None, []
    with whole_or_not_at_all(mixture):
        for restart in range(restarts):
            _start(mixture, x, init, seed + restart, covariance_floor, own_weights)
            with progress_bar(total=max_iterations, shown=progress, desc=f"EM {restart + 1}/{restarts}") as bar:
                result = _climb(mixture, x, own_weights, max_iterations, tolerance, covariance_floor, hard, update, bar)
            result.restart = restart
            finals.append(result.history[-1])
            if best_state is None or finals[-1] > best.history[-1]:
                best, best_state = result, copy.deepcopy(mixture.state_dict())
    mixture.load_state_dict(best_state)
    best.final_log_likelihoods = finals
    _warn_reseeded(best)
    return best


def _climb(
    mixture: EMMixture,
    x: Tensor,
    weights: Tensor | None,
    max_iterations: int,
    tolerance: float,
    covariance_floor: float,
    hard: bool,
    update: Collection[str],
    bar: tqdm,
) -> EMResult:
    """One restart, from the mixture as it is."""
    result = EMResult()
    dtype = next(iter(mixture.state_dict().values())).dtype
    step = mixture.e_step(x, hard=hard, data_weights=weights)
    result.history.append(_mean(step.log_likelihood, weights))
    for iteration in range(1, max_iterations + 1):
        moments, moved = step.moments, list[int]()
        if "means" in update:  # as an empty component can be moved nowhere else
            moments, moved = _reseed(moments, step.log_likelihood, x, weights)
        result.reseeded += [(iteration, component) for component in moved]
        least_gain = mixture.m_step(moments, covariance_floor=covariance_floor, update=update)
        step = mixture.e_step(x, hard=hard, data_weights=weights)
        before, after = result.history[-1], _mean(step.log_likelihood, weights)
        result.history.append(after)
        result.num_iterations = iteration
        bar.set_postfix_str(f"{after:.4f} nats", refresh=False)
        bar.update()
        if not moved:
            _check_climbed(iteration, before, after, least_gain, dtype)
            if abs(after - before) <= tolerance:  # the floor's cost may hide a gain still to come
                result.converged = True
                break
    return result


def _check_climbed(iteration: int, before: float, after: float, least_gain: float, dtype: torch.dtype) -> None:
    rounding = torch.finfo(dtype).eps ** 0.5 * max(1.0, abs(before))
    if not after >= before + least_gain - rounding or not math.isfinite(after):
        raise FloatingPointError(
            f"EM iteration {iteration}: mean log likelihood went from {before} to {after}, expected a gain of at least "
            f"{least_gain:.3g}; use mixture.double(), raise covariance_floor, or scale features to similar variances"
        )


@checked
def fit_streaming_em(
    mixture: EMMixture,
    batches: Any,
    *,
    batch_size: Count | None = None,
    epochs: Count = 1,
    init: str | Tensor = "k-means++",
    step_exponent: StepExponent = 0.6,
    covariance_floor: NonNegative = 1e-6,
    seed: StartSeed = 0,
    progress: bool = False,
) -> EMResult:
    """Trains a mixture by EM, in place, on data that come in batches and are never in memory together.

    After batch k the moments are `s = (1 - k^-a) s + k^-a s_batch`, pooled as means and covariances so that no digits
    cancel, and an M-step follows. With `1/2 < a <= 1` this finds a stationary point of the likelihood, as full-batch
    EM does; after finitely many batches some noise is left, about that of the last `k^a` of them. The start comes from
    the first batch alone: batches should be random draws of the data, with many points for each component.

    Source: Cappé & Moulines 2009 (arXiv:0712.4273).

    Args:
        mixture: a `ppvae.models.GaussianMixture`. Computed in float64, whatever its dtype, on its device.
        batches: an iterable of tensors or arrays `[B, D]` (or of tuples, such as a `DataLoader` gives, whose first
            entry is used), or one tensor, array or table `[N, D]`, which is shuffled for each epoch.
        batch_size: B, for one tensor, array or table.
        epochs: passes over `batches`.
        init: as for `fit_em`, on the first batch.
        step_exponent: a.
        covariance_floor: added to variances in each M-step, in squared units of the data.
        seed: of the start and of the shuffling.
        progress: show a bar.

    Raises:
        ValueError: bad data (the index is named), a first batch of fewer points than components, an iterable that is
            used up before the last epoch, or a bad option.

    Example:
        >>> from ppvae.models import GaussianMixture
        >>> x = torch.tensor([[-5.1], [-4.9], [4.9], [5.1]]).repeat(100, 1)
        >>> mixture = GaussianMixture(num_components=2, num_features=1)
        >>> fit_streaming_em(mixture, x, batch_size=100, epochs=2).num_iterations
        8
        >>> mixture.means.detach().sort(0).values.round()
        tensor([[-5.],
                [ 5.]])
    """
    refuse_without_numbers(mixture)
    _check_init(mixture, init)
    if not (is_stream(batches) or isinstance(batches, list | tuple)):
        batches = _Shuffled(points_of(batches, mixture.num_features), batch_size, seed)
    elif batch_size is not None:
        raise ValueError(f"batch_size: found {batch_size} with an iterable of batches, expected None; it has its own")
    result, moments, first_size = EMResult(), None, 0
    with whole_or_not_at_all(mixture):
        for epoch in range(1, epochs + 1):
            before = len(result.history)
            title = f"streaming EM {epoch}/{epochs}"
            for batch in progress_bar(iterable=batches, shown=progress, desc=title, unit="batch"):
                x = points_of(batch[0] if isinstance(batch, tuple | list) else batch, mixture.num_features)
                if moments is None:
                    warn_of_atoms(x, covariance_floor)
                    _start(mixture, x, init, seed, covariance_floor)
                    first_size = len(x)
                step = mixture.e_step(x)
                result.history.append(step.log_likelihood.mean().item())
                k = result.num_iterations = len(result.history)
                share = k**-step_exponent * min(1.0, len(x) / first_size)  # a smaller last batch counts for less
                moments = step.moments if moments is None else moments.pool(step.moments, share)
                moments, moved = _reseed(moments, step.log_likelihood, x)
                result.reseeded += [(k, component) for component in moved]
                mixture.m_step(moments, covariance_floor=covariance_floor, update=PARAMETERS)
            if len(result.history) == before:
                raise ValueError(
                    f"batches: found none in epoch {epoch} of {epochs}, expected some in each; "
                    "an iterator can be read only once: pass a list, a DataLoader or a tensor"
                )
    _warn_reseeded(result)
    return result


class _Shuffled:
    """Batches of a tensor in random order, a new one at each iteration over it."""

    def __init__(self, x: Tensor, batch_size: int | None, seed: int):
        if batch_size is None:
            raise ValueError(f"batch_size: found {batch_size}, expected at least 1 for data in one tensor or array")
        self.x, self.batch_size = x, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.x), generator=self.generator)
        return (self.x[index.to(self.x.device)] for index in order.split(self.batch_size))


def _check_init(mixture: EMMixture, init: str | Tensor) -> None:
    if isinstance(init, str) and init not in (*RANDOM_STARTS, "current"):
        expected = f"'k-means++', 'random', 'current' or means [{mixture.num_components}, D]"
        raise ValueError(f"init: found {init!r}, expected {expected}")


def _start(
    mixture: EMMixture,
    x: Tensor,
    init: str | Tensor,
    seed: int,
    covariance_floor: float,
    weights: Tensor | None = None,
) -> None:
    """Sets the mixture to its start: means, each point assigned to the nearest, and one M-step."""
    C = mixture.num_components
    if isinstance(init, str) and init == "current":
        return
    num_points = len(x) if weights is None else int((weights > 0).sum())
    if num_points < C:
        raise ValueError(f"data: found {num_points} data points, expected at least one for each of {C} components")
    own = None if weights is None else weights.cpu().numpy()
    if isinstance(init, Tensor):
        means = init
    elif init == "k-means++":
        means = torch.as_tensor(kmeans_plusplus(x.double().cpu().numpy(), C, sample_weight=own, random_state=seed)[0])
    else:
        shares = None if own is None else own / own.sum()
        means = x[np.random.default_rng(seed).choice(len(x), C, replace=False, p=shares)]
    mixture.start(means, _variance(x.double(), weights) + covariance_floor)
    step = mixture.e_step(x, hard=True, data_weights=weights)
    moments, _ = _reseed(step.moments, step.log_likelihood, x, weights)
    mixture.m_step(moments, covariance_floor=covariance_floor, update=PARAMETERS)


def _mean(terms: Tensor, weights: Tensor | None) -> float:
    """The mean over data points, by their weights, whose mean is one."""
    return (terms if weights is None else weights.to(terms) * terms).mean().item()


def _variance(x: Tensor, weights: Tensor | None) -> float:
    """The variance of the data `[N, D]`, in the mean over features."""
    if weights is None:
        return x.var(0, correction=0).mean().item()
    return _mean((x - (weights[:, None] * x).mean(0)).square().mean(1), weights)


def _reseed(moments: Any, log_likelihood: Tensor, x: Tensor, weights: Tensor | None = None) -> tuple[Any, list[int]]:
    """Moves each empty component to one of the data points that the mixture explains worst."""
    empty = (moments.weight * len(x) < EMPTY).nonzero()[:, 0]
    if len(empty) == 0:
        return moments, []
    if weights is not None:
        log_likelihood = log_likelihood.masked_fill(weights.to(log_likelihood) == 0, math.inf)
    worst = log_likelihood.topk(len(empty), largest=False).indices
    return moments.reseed(empty, x[worst.to(x.device)]), empty.tolist()


def _warn_reseeded(result: EMResult) -> None:
    if result.reseeded:
        components = sorted({component for _, component in result.reseeded})
        warnings.warn(
            f"EM: components {components} lost all their data points and were reseeded at the worst explained ones; "
            "are there fewer clusters than components, or a poor start?",
            stacklevel=4,
        )
