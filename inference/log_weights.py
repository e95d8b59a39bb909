"""Draws of log weights, chunk after chunk: by Pyro's handlers at first, as a compiled program once that pays."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ppvae.batches import Batch, tensors
from ppvae.inference.programs import Call, CannotCompileError, compiled
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

Draw = Callable[[Pair, Batch, int], Tensor]
COMPILE_AFTER = 100
"""Chunks of one shape: they take about as long as compiling does, so that it never costs more than twice the best."""


class LogWeights:
    """`draw(pair, batch, num_particles)`, `[K, B]`, for many batches, while the pair's parameters stay as they are.

    Compiled or not, the same noise gives the same weights but for rounding. What cannot be compiled is drawn by Pyro to
    the end, with a warning.

    Args:
        pair: the model and guide.
        draw: a function of the pair without gradients, such as its log weights.
    """

    def __init__(self, pair: Pair, draw: Draw):
        self._call, self._draw = Call(pair), draw
        self._seen: Counter[Any] = Counter()
        self._programs: dict[Any, Callable[[Batch], Tensor]] = {}
        self._compile = True

    def __call__(self, batch: Batch, num_particles: int) -> Tensor:
        shape = (num_particles, *((name, t.shape, t.dtype) for name, t in tensors(batch).items()))
        self._seen[shape] += 1
        if self._compile and self._seen[shape] == COMPILE_AFTER:
            try:
                self._programs[shape] = self._program(batch, num_particles)
            except CannotCompileError as reason:
                logger.warning("measuring goes on uncompiled: %s", reason)
                self._compile = False
        if shape in self._programs:
            return self._programs[shape](batch)
        return self._draw(self._call.pair, batch, num_particles)

    def _program(self, batch: Batch, num_particles: int) -> Callable[[Batch], Tensor]:
        state = {name: t.detach() for name, t in [*self._call.named_parameters(), *self._call.named_buffers()]}
        inputs, structure = tree_flatten((state, batch))

        def function(*leaves: Tensor) -> list[Tensor]:
            named, data = tree_unflatten(list(leaves), structure)
            return [torch.func.functional_call(self._call, named, (self._draw, data, num_particles)).detach()]

        program = compiled(
            function, inputs, lambda: self._draw(self._call.pair, batch, num_particles), inputs[0].device
        )
        held = tree_leaves(state)
        return lambda batch: program(*held, *tree_leaves(batch))[0]
