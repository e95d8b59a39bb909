"""Gradients of several objectives at one minibatch, many times over, with the same noise for all."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppvae.batches import Batch, num_rows
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.diagnostics.chunked_gradient import flat_gradient, gradient, value
from ppvae.inference.diagnostics.compiled_gradient import compiled_gradient
from ppvae.inference.diagnostics.moments import BLOCKS, Moments
from ppvae.inference.objectives.importance_weighted import IWAE
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.chunks import chunk_rows
from ppvae.inference.runtime.distributed import Processes, processes
from ppvae.inference.runtime.isolation import seed_generators
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

GRADIENT_CPU_ELEMENTS, GRADIENT_GPU_ELEMENTS = 250_000_000, 8_000_000_000
"""Elements of all the tensors made for one gradient: on a CPU, about 1 GB, only part of it alive at a time."""
LEAST_AT_ONCE = 4
VALUES_TIMED = 20


@dataclass
class Observed:
    """The results of one objective's repeats.

    Attributes:
        objective: with its number of particles.
        run: takes one gradient: the value `[B]` and the flat gradient, or None where there is none.
        reference: what bias is measured against: a gradient, another objective, or None.
        gradients: the moments of the gradient; none drawn if the objective is for evaluation only.
        differences: the moments of its difference from the reference's gradient with the same noise.
        values: the bound's mean over the batch, for each repeat.
        seconds: the time that each gradient took.
    """

    objective: Objective
    run: Callable[[], tuple[Tensor, Tensor | None]]
    reference: Tensor | Objective | None
    gradients: Moments
    differences: Moments
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def bias(self) -> tuple[Tensor, Tensor] | None:
        """Norm of the bias, and its standard error, per group; None without a reference."""
        if isinstance(self.reference, Tensor):
            return self.gradients.statistics(self.reference)["norm"]
        return None if self.reference is None else self.differences.statistics()["norm"]


class RepeatedGradients:
    """The gradients of a pair at a minibatch.

    Args:
        pair: the model and guide.
        batch: B data points.
        groups: parameters of the pair by group.
        seed: of the noise; repeat r with K particles has the same noise for every objective.
        compile: run gradients that need not be taken in chunks as compiled programs.
    """

    def __init__(self, pair: Pair, batch: Batch, groups: Mapping[str, Sequence[Tensor]], seed: int, compile: bool):
        self.pair, self.batch, self.seed, self.compile = pair, batch, seed, compile
        chosen = {id(p) for group in groups.values() for p in group}
        self.parameters = [p for p in pair.parameters() if id(p) in chosen]
        self.groups = {name: _slices(self.parameters, group) for name, group in groups.items()}
        budget = chunk_rows(pair, batch, self._two_particles, GRADIENT_CPU_ELEMENTS, GRADIENT_GPU_ELEMENTS)
        self.at_once = max(LEAST_AT_ONCE, 2 * budget // num_rows(batch))

    def _two_particles(self, batch: Batch, num_particles: int, at_once: int) -> dict[str, Tensor]:
        return {"gradient": gradient(IWAE(2), self.pair, batch, self.parameters, 2)[1]}

    def once(self, objective: Objective) -> tuple[Tensor, Tensor | None]:
        """The value, `[B]`, and the flat gradient, `[P]`; None for an objective that is for evaluation only."""
        if objective.evaluation_only:
            return value(objective, self.pair, self.batch, self.at_once), None
        return gradient(objective, self.pair, self.batch, self.parameters, self.at_once)

    def prepare(self, objectives: Sequence[Objective]) -> list[Observed]:
        """Prepares these to be repeated, followed by those that run only as references."""
        observed = [self._new(objective) for objective in objectives]
        for one in list(observed):
            if not isinstance(one.reference, Tensor | None):
                if one.reference not in [other.objective for other in observed]:
                    observed.append(self._new(one.reference))
                one.reference = next(o.objective for o in observed if o.objective == one.reference)
        return observed

    def repeat(self, observed: Sequence[Observed], repeats: int, bar: tqdm) -> None:
        """Runs all of them `repeats` times; several processes take the repeats in turn."""
        group = processes()
        with group.together(busy=True):
            self._take_turns(observed, repeats, group, bar)
        for one in observed:
            one.gradients.merge()
            one.differences.merge()
            one.values = [value for values in group.gather(one.values) for value in values]
            one.seconds = [seconds for some in group.gather(one.seconds) for seconds in some]

    def _take_turns(self, observed: Sequence[Observed], repeats: int, group: Processes, bar: tqdm) -> None:
        for r in range(group.rank, repeats, group.size):
            found, block = [], r * BLOCKS // repeats  # blocks in order, so that a block's sum stays in the cache
            for one in observed:
                seed_generators((self.seed, r), self.parameters[0].device)
                start = self._clock()
                bound, g = one.run()
                one.seconds.append(self._clock() - start)
                one.values.append(bound.mean().item())
                found.append(g)
            for one, g in zip(observed, found, strict=True):
                if g is None:
                    continue
                one.gradients.add(block, g)
                for other, reference in zip(observed, found, strict=True):
                    if reference is not None and one.reference is other.objective:
                        one.differences.add(block, g - reference)
            bar.update(group.size)

    def _program(self, objective: Objective) -> Callable[[], tuple[Tensor, Tensor | None]]:
        if not self.compile or objective.evaluation_only or objective.num_draws > self.at_once:
            return lambda: self.once(objective)
        try:
            return compiled_gradient(objective, self.pair, self.batch, self.parameters)
        except CannotCompileError as reason:
            logger.warning("%s: gradients are taken uncompiled: %s", objective, reason)
            return lambda: self.once(objective)

    def seconds_of_value(self, objective: Objective) -> float:
        """The median time of the bound alone."""
        times = []
        for _ in range(VALUES_TIMED):
            start = self._clock()
            value(objective, self.pair, self.batch, self.at_once)
            times.append(self._clock() - start)
        return statistics.median(times)

    def _new(self, objective: Objective) -> Observed:
        reference: Tensor | Objective | None = self._exact(objective)
        if reference is None and objective.unbiased != objective:
            reference = objective.unbiased
        groups = list(self.groups.values())
        return Observed(objective, self._program(objective), reference, Moments(groups), Moments(groups))

    def _exact(self, objective: Objective) -> Tensor | None:
        """The exact gradient, where it is known."""
        try:
            exact = objective.exact_value(self.pair, self.batch).mean()
        except NotImplementedError:
            return None
        return flat_gradient(exact, self.parameters)

    def _clock(self) -> float:
        if self.parameters[0].is_cuda:
            torch.cuda.synchronize(self.parameters[0].device)
        return time.perf_counter()


def _slices(parameters: Sequence[Tensor], group: Sequence[Tensor]) -> list[slice]:
    """Where a group's parameters lie in the flat gradient; neighbors are joined."""
    chosen = {id(p) for p in group}
    result: list[slice] = []
    start = 0
    for p in parameters:
        end = start + p.numel()
        if id(p) in chosen:
            if result and result[-1].stop == start:
                result[-1] = slice(result[-1].start, end)
            else:
                result.append(slice(start, end))
        start = end
    return result
