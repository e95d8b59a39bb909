"""A program on a GPU as one CUDA graph: all its kernels are launched at once, with no Python or torch between them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ppvae.inference.isolation import random_state, set_random_state

Program: TypeAlias = Callable[..., list[Tensor]]
AGREEMENT = 1e-3
"""How far the two may be apart, relatively: in a graph libraries may choose kernels that sum in another order."""
WARM_UP = 3
"""Runs before the recording: libraries allocate memory and choose kernels in the first ones."""


def captured(program: Program, inputs: Sequence[Tensor], num_held: int, device: torch.device) -> Program:
    """`program` as a CUDA graph, whose first `num_held` inputs are always these same tensors, read and written there.

    The other inputs are copied into place at each call. The results are overwritten by the next call. Draws noise.

    Raises:
        RuntimeError: the program cannot be recorded.
        AssertionError: with the same noise, the first number of the graph's results is not that of the program's.
    """
    held, places = list(inputs[:num_held]), [t.clone() for t in inputs[num_held:]]

    def on_copies() -> list[Tensor]:
        return program(*[t.clone() for t in inputs])

    replay, found = recorded(lambda: program(*held, *places), on_copies, device)

    def run(*inputs: Tensor) -> list[Tensor]:
        for place, t in zip(places, inputs[num_held:], strict=True):
            place.copy_(t)
        replay()
        return found

    before, contents = random_state(device), [t.clone() for t in held]
    expected = on_copies()[0].flatten()[0]
    set_random_state(before, device)
    try:
        value = run(*inputs)[0].flatten()[0]
        torch.testing.assert_close(value, expected, rtol=AGREEMENT, atol=AGREEMENT, msg="{}, in a CUDA graph".format)
    finally:
        for t, content in zip(held, contents, strict=True):
            t.copy_(content)
    return run


def recorded(
    run: Callable[[], list[Tensor]], rehearse: Callable[[], Any], device: torch.device
) -> tuple[Callable[[], None], list[Tensor]]:
    """What does `run` once more, on the tensors that it knows, and where its results are afterwards.

    Recording does not run anything. `rehearse` is run before, on another stream, as CUDA demands.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                rehearse()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run()
    return graph.replay, found
