"""Functions of a pair, called over and over: through Pyro at first, then as programs, once these pay off."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ppvae.devices import device_of
from ppvae.inference.compiling.inputs import CannotCompileError, kind_of, taken_apart, tensors_in
from ppvae.inference.compiling.programs import Call, buffers_stay, compiled, untouched
from ppvae.internals import tree_flatten, tree_leaves, tree_unflatten
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

COMPILE_AFTER = 100
"""Calls on chunks of one shape before compiling: they take about as long as compiling does, so the total is at most
twice the optimum."""

RECORD_AFTER = 200
"""The same for recording, on a CPU, where compiling comes later or never."""


class Repeated:
    """`function(pair, *args)` for many arguments, while the pair's parameters stay as they are.

    Compiled or not, the same noise gives the same results up to rounding; recorded or not, to the last bit. What cannot
    be compiled keeps running as it did, with a warning.

    Args:
        pair: the model and guide.
        function: of the pair, batches, tensors and plain numbers, to a tensor or a tuple of tensors without gradients.
        after: calls with arguments of one shape after which to compile; infinity for never.
        record_after: the same for recording, where it comes first.
    """

    def __init__(
        self,
        pair: Pair,
        function: Callable[..., Any],
        after: float | None = None,
        record_after: float | None = None,
    ):
        self._call, self._function = Call(pair), function
        compile_after = COMPILE_AFTER if after is None else after
        record_after = RECORD_AFTER if record_after is None else record_after
        records = compile_after > record_after and device_of(pair).type == "cpu"
        self._records_at: dict[float, bool] = {record_after: True} if records else {}
        self._records_at[compile_after] = False
        self._seen: Counter[Any] = Counter()
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        kind = kind_of(args)
        self._seen[kind] += 1
        if self._seen[kind] in self._records_at:
            self._make_program(kind, args)
        if kind in self._programs:
            return self._programs[kind](args)
        return self._function(self._call.pair, *args)

    def _make_program(self, kind: Any, args: Any) -> None:
        record = self._records_at[self._seen[kind]]
        try:
            self._programs[kind] = self._program(args, record)
        except CannotCompileError as reason:
            logger.log(logging.INFO if record else logging.WARNING, "measuring goes on uncompiled: %s", reason)
            del self._records_at[self._seen[kind]]  # nor is it tried for arguments of other shapes

    def _program(self, args: Any, record: bool) -> Callable[..., Any]:
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

        def eager() -> list[Tensor]:
            with buffers_stay(self._call.pair):
                return tree_leaves(self._function(self._call.pair, *args))

        inputs = held + changing
        with untouched(self._call.pair, self._function) as met:
            program = compiled(function, inputs, eager, met, record=record)

        def run(args: Any) -> Any:
            return tree_unflatten(program(*held, *tensors_in(args)), *result)

        return run
