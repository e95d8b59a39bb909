"""A program on a GPU as one CUDA graph: all its kernels are launched at once, with no Python or torch between them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Program: TypeAlias = Callable[..., list[Tensor]]
WARM_UP = 3
"""Runs before the recording: libraries allocate memory and choose kernels in the first ones."""


def captured(program: Program, inputs: Sequence[Tensor], num_held: int, device: torch.device) -> Program:
    """`program` as a CUDA graph; its first `num_held` inputs are always these same tensors, read and written in place.

    The other inputs are copied into place at each call. The results are overwritten by the next call. Recording draws
    noise. If a program cannot be recorded, the error propagates unchanged.
    """
    held, places = list(inputs[:num_held]), [t.clone() for t in inputs[num_held:]]

    def rehearse() -> list[Tensor]:
        return program(*[t.clone() for t in inputs])

    replay, found = recorded(lambda: program(*held, *places), rehearse, device)

    def run(*inputs: Tensor) -> list[Tensor]:
        for place, t in zip(places, inputs[num_held:], strict=True):
            place.copy_(t)
        replay()
        return found

    return run


def recorded(
    run: Callable[[], list[Tensor]], rehearse: Callable[[], Any], device: torch.device
) -> tuple[Callable[[], None], list[Tensor]]:
    """A function that repeats `run` on the same tensors, and the tensors that hold its results afterwards.

    Recording does not run anything. `rehearse` runs before it on another stream, as CUDA requires.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                rehearse()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may pin memory meanwhile
            found = run()
    return graph.replay, found
