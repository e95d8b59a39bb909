"""One gradient of an objective as a compiled program."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ppvae.batches import Batch
from ppvae.inference.compiling.inputs import taken_apart
from ppvae.inference.compiling.programs import Call, buffers_stay, compiled, untouched
from ppvae.inference.diagnostics.chunked_gradient import flat_gradient
from ppvae.inference.objectives.protocol import Objective, as_objective
from ppvae.pair import Pair


def compiled_gradient(
    objective: Objective, pair: Pair, batch: Batch, parameters: Sequence[Tensor]
) -> Callable[[], tuple[Tensor, Tensor]]:
    """`chunked_gradient.gradient` of these arguments as a program, all particles at once.

    Raises:
        CannotCompileError: as `untouched` and `compiled`.
    """
    call = Call(pair)
    names = {id(p): name for name, p in call.named_parameters()}
    buffers = dict(call.named_buffers())
    inputs, put_together = taken_apart([[p.detach() for p in parameters], list(buffers.values()), batch])

    with untouched(pair, objective) as met:
        prepared = as_objective(objective).prepared(pair, batch)

        def function(*leaves: Tensor) -> list[Tensor]:
            copies, running, data = put_together(leaves)
            copies = [p.detach().requires_grad_() for p in copies]
            named = {names[id(p)]: own for p, own in zip(parameters, copies, strict=True)}
            named |= dict(zip(buffers, running, strict=True))
            return call.with_tensors(named, of_pair, copies, data)

        def of_pair(pair: Pair, learned: Sequence[Tensor], data: Batch) -> list[Tensor]:
            value, surrogate = prepared(pair, data, math.inf)
            return [value.detach(), flat_gradient(surrogate, learned)]

        def eager() -> list[Tensor]:
            with buffers_stay(pair):
                return of_pair(pair, parameters, batch)

        program = compiled(function, inputs, eager, met, learned=parameters)

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor]:
        value, found = program(*inputs)
        return value, found

    return run
