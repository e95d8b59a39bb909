"""A traced function for several sets of inputs at once, each with random numbers of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

DRAWS_IN_PLACE = {
    getattr(torch.ops.aten, f"{name}_")
    for name in ("bernoulli", "cauchy", "exponential", "geometric", "log_normal", "normal", "random", "uniform")
}


def stacked(graph: GraphModule, in_dims: Sequence[int | None]) -> Callable[..., tuple[Tensor, ...]]:
    """`graph` under vmap: inputs are stacked along dimension 0 where `in_dims` says 0, and shared where it says None.

    Random numbers that are written in place are written into a tensor of each set's own, as vmap asks for.
    """
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    own = places[list(in_dims).index(0)]
    for node in list(graph.graph.nodes):
        if getattr(node.target, "overloadpacket", None) in DRAWS_IN_PLACE:
            with graph.graph.inserting_before(node):
                copy = graph.graph.call_function(_of_each, (node.args[0], own))
            node.args = (copy, *node.args[1:])
    graph.recompile()

    def run(*inputs: Any) -> tuple[Tensor, ...]:
        return tuple(graph.forward(*inputs))

    return torch.vmap(run, in_dims=tuple(in_dims), randomness="different")


def _of_each(shared: Tensor, own: Tensor) -> Tensor:
    """A tensor like `shared`, to be written into, that each set of inputs has of its own, as it has `own`."""
    return torch.zeros_like(shared) + 0 * own.flatten()[0].to(shared.dtype)
