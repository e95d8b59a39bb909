"""Functions of a pair, called over and over: through Pyro at first, as a compiled program once that pays off."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ppvae.inference.compiling.inputs import CannotCompileError, kind_of, taken_apart, tensors_in
from ppvae.inference.compiling.programs import Call, compiled
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

COMPILE_AFTER = 100
"""Calls on chunks of one shape before compiling: they take about as long as compiling does, so the total is at most
twice the optimum."""


class Repeated:
    """`function(pair, *args)` for many arguments, while the pair's parameters stay as they are.

    Compiled or not, the same noise gives the same results up to rounding. What cannot be compiled keeps running through
    Pyro, with a warning.

    Args:
        pair: the model and guide.
        function: of the pair, batches, tensors and plain numbers, to a tensor or a tuple of tensors without gradients.
        after: calls with arguments of one shape after which to compile; infinity for never.
    """

    def __init__(self, pair: Pair, function: Callable[..., Any], after: float | None = None):
        self._call, self._function = Call(pair), function
        self._after = COMPILE_AFTER if after is None else after
        self._seen: Counter[Any] = Counter()
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._compile = True

    def __call__(self, *args: Any) -> Any:
        kind = kind_of(args)
        self._seen[kind] += 1
        if self._compile and self._seen[kind] == self._after:
            try:
                self._programs[kind] = self._program(args)
            except CannotCompileError as reason:
                logger.warning("measuring goes on uncompiled: %s", reason)
                self._compile = False
        if kind in self._programs:
            return self._programs[kind](args)
        return self._function(self._call.pair, *args)

    def _program(self, args: Any) -> Callable[..., Any]:
        state = {name: t.detach() for name, t in [*self._call.named_parameters(), *self._call.named_buffers()]}
        held = tree_leaves(state)
        changing, put_together = taken_apart(args)
        result: list[Any] = []

        def function(*tensors: Tensor) -> list[Tensor]:
            named = dict(zip(state, tensors, strict=False))
            own = put_together(tensors[len(held) :])
            found, shape = tree_flatten(self._call.with_tensors(named, self._function, *own))
            result[:] = [shape]
            return [t.detach() for t in found]

        inputs = held + changing
        program = compiled(
            function, inputs, lambda: tree_leaves(self._function(self._call.pair, *args))[0], inputs[0].device
        )

        def run(args: Any) -> Any:
            return tree_unflatten(program(*held, *tensors_in(args)), *result)

        return run
