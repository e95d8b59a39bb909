"""A traced function as its tensor operations, run one by one by TorchScript's interpreter instead of by Python.

That is ready sooner than what a compiler makes, and saves what Pyro's handlers, autograd and Python cost. The
operations are those of the function itself, so that the results are the same to the last bit.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from ppvae.inference.compiling.constants import with_constants
from ppvae.inference.compiling.idle_views import without_idle_views
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.runtime.isolation import random_state, set_random_state


@torch.no_grad()
def recorded(
    trace: Callable[[], GraphModule], inputs: Sequence[Tensor], device: torch.device
) -> Callable[..., list[Tensor]]:
    """What `trace` returns, as a program for tensors like `inputs`; errors propagate unchanged.

    The interpreter's optimizations stay off: they begin at the third call, so that a run that goes on from a file would
    differ in rounding from one that was never stopped.

    Raises:
        CannotCompileError: it draws other random numbers than what it was recorded from.
    """
    graph, before = trace(), random_state(device)
    without_idle_views(graph)
    with_constants(graph)

    def copies() -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in inputs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript gets no new features
            script = torch.jit.trace(lambda *tensors: tuple(graph.forward(*tensors)), copies(), check_trace=False)
    except RuntimeError:  # it cannot take all arguments, such as the mask of a convolution's gradients
        script = graph.forward

    @torch.no_grad()
    def program(*tensors: Tensor) -> list[Tensor]:
        with torch.jit.optimized_execution(False):
            return list(script(*tensors))

    states = []
    for run in (graph.forward, program):
        set_random_state(before, device)
        run(*copies())
        states.append(random_state(device))
    if any(not torch.equal(state, states[1][name]) for name, state in states[0].items()):
        raise CannotCompileError("random numbers are drawn that nothing depends on, and the record leaves them out")
    return program
