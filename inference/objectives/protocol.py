"""Objectives: `objective(pair, batch, step) -> (value, surrogate)`.

`value`, `[B]`, is the bound per data point in nats, as reported; higher is better. `surrogate`, a scalar, the mean over
data points, is maximized: its gradient is the estimator. The two differ whenever training is not plain ascent on the
bound (a beta below one, free bits, estimators that leave out terms of mean zero).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor

from ppvae.batches import Batch, made_beside, num_rows
from ppvae.inference.objectives.weighting import weighted
from ppvae.pair import Pair
from ppvae.rules import Function, Problem
from ppvae.weights import draw_weights
from ppvae.wording import shown


class _Maximizable(Function):
    """What takes pair, batch and step, which Pyro's losses do not."""

    def problem(self, value: Any) -> Problem | None:
        of = value if isinstance(value, type) else type(getattr(value, "__self__", value))
        return self.wrong_type(value, OF_PYRO) if of.__module__.startswith("pyro.infer.") else super().problem(value)


OF_PYRO = (
    "Pyro's take model and guide: in place of Trace_ELBO, TraceMeanField_ELBO or TraceGraph_ELBO take ELBO(), of "
    "TraceEnum_ELBO EnumeratedELBO(), of RenyiELBO Renyi() or IWAE(), of ReweightedWakeSleep RWS()"
)
Maximized = Annotated[
    Callable[..., tuple[Tensor, Tensor]],
    _Maximizable("an objective, such as ELBO(), or a function of pair, batch and step", made=True, takes=3),
]
"""What `fit` takes: an `Objective`, or a plain function of pair, batch and step that returns value and surrogate."""


class Objective(ABC):
    """What `fit` maximizes. A subclass defines `__call__`; everything else has a default.

    Make it a frozen dataclass whose fields are its settings. `ppvae.gradient_statistics` needs a field
    `num_particles`, which it sets to each K; `fit` does not.

    Example:
        >>> @dataclass(frozen=True)
        ... class MeanLogWeight(Objective):
        ...     num_particles: int = 1
        ...
        ...     def __call__(self, pair, batch, step=math.inf):
        ...         value = pair.log_weights(batch, self.num_particles).log_w.mean(0)
        ...         return value, value.mean()
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> value, surrogate = MeanLogWeight(5)(LinearVAE(num_features=3, num_latents=2), torch.zeros(4, 3))
        >>> value.shape, surrogate.shape
        (torch.Size([4]), torch.Size([]))
    """

    evaluation_only: ClassVar[bool] = False
    """Whether it has a value but no gradient to train on."""

    num_particles: int
    """K, the setting that determines the cost of an estimate."""

    @abstractmethod
    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        """The bound's value `[B]` and the surrogate, a scalar.

        Args:
            pair: the model and guide.
            batch: B data points.
            step: the training step, from 0; a tensor in a compiled step. At infinity all schedules are over.
        """

    @property
    def schedules(self) -> tuple[str, ...]:
        """The fields that hold a function of the step instead of a number."""
        return ()

    def scheduled(self, step: float) -> dict[str, float]:
        """The values of the schedules at a step, by field."""
        return {name: getattr(self, name)(step) for name in self.schedules}

    def at(self, values: Mapping[str, Any]) -> "Objective":
        """The same objective with its schedules held at these values, which may be tensors."""
        held = {name: _Constant(value) for name, value in values.items()}
        return replace(self, **held) if held else self  # type: ignore[type-var]

    @property
    def num_draws(self) -> int:
        """How many draws from the guide each data point takes."""
        return self.num_particles

    @property
    def unbiased(self) -> "Objective | None":
        """An objective with the same value and an unbiased gradient, if there is one: the reference for bias."""
        return self

    def exact_value(self, pair: Pair, batch: Batch) -> Tensor:
        """The expected value, `[B]`, without noise; its gradient is the surrogate's expected one.

        Raises:
            NotImplementedError: it is not known for this objective or this pair.
        """
        raise NotImplementedError(f"{self}: its exact value is not known")

    def prepared(self, pair: Pair, batch: Batch) -> "Objective":
        """The same objective for many calls with this pair, which it inspects once instead of at each call.

        Valid only while nothing about the pair changes but its parameters.
        """
        return self

    def parts(self, pair: Pair, batch: Batch, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Value and surrogate, schedules over, as parts to be summed; each part's graph may be freed before the next.

        Args:
            pair: the model and guide.
            batch: B data points.
            sizes: how many draws each part may hold; `num_draws` in all. By default all are taken at once.
        """
        yield self(pair, batch)

    def probe(self, pair: Pair, batch: Batch) -> Tensor:
        """A number for each data point, `[B]`, finite where training on it is possible; `fit` checks them all."""
        return draw_weights(pair, batch, num_particles=1).log_w[0]


class MeanOverDraws(Objective):
    """An objective whose value and surrogate are means over its K draws, so it splits into ones with fewer draws."""

    def parts(self, pair: Pair, batch: Batch, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for size in sizes:
            value, surrogate = replace(self, num_particles=size)(pair, batch)  # type: ignore[type-var]
            share = size / self.num_particles
            yield share * value, share * surrogate


@dataclass(frozen=True)
class FunctionObjective(Objective):
    """A function `(pair, batch, step) -> (value, surrogate)` as an objective."""

    function: Maximized

    @property
    def num_particles(self) -> int:  # type: ignore[override]
        return self.function.num_particles  # type: ignore[attr-defined]

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        with made_beside(batch):
            found = self.function(pair, batch, step)
        if isinstance(found, tuple | list) and [isinstance(each, Tensor) for each in found] == [True, True]:
            return found[0], found[1]
        raise TypeError(
            f"objective: found that {shown(self.function)} returns {shown(found)}, expected two tensors, (value, "
            "surrogate): the bound for each data point, [B], and a scalar to be maximized, such as its mean"
        )


def as_objective(given: Maximized) -> Objective:
    """Returns an objective unchanged, and wraps any other function of pair, batch and step as one."""
    return given if isinstance(given, Objective) else FunctionObjective(given)


def with_penalty(
    objective: Maximized,
    pair: Pair,
    batch: Batch,
    step: float | Tensor,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What a training step calls: the mean bound, and the surrogate with the pair's penalty subtracted.

    Data points count by their weights in both.

    Raises:
        ValueError: there are not as many of them as weights.
    """
    if weights is not None and num_rows(batch) != len(weights):
        raise ValueError(
            f"transform: found that it makes {num_rows(batch)} data points of {len(weights)}, which have weights, "
            "expected as many; transform each by itself, or leave out the weights"
        )
    with weighted(weights, objective):
        value, surrogate = objective(pair, batch, step)
    with made_beside(batch):
        penalty = pair.penalty()
    return (value if weights is None else weights * value).mean(), surrogate - penalty


@dataclass(frozen=True)
class _Constant:
    """A schedule that has the same value at each step."""

    value: Any

    def __call__(self, step: float | Tensor) -> Any:
        return self.value
