"""Draws into memory that is not contiguous, such as dropout's of a transposed tensor, in a graph for the compiler.

`empty_like(x).bernoulli_(p)` fills memory in the order of x's strides, on most machines. The compiler takes it for
`bernoulli(x, p)`, which is always contiguous, and so draws other noise. Here it becomes one operation that does as it.
"""

import torch
from torch import Tensor
from torch.fx import GraphModule

aten = torch.ops.aten


@torch.library.custom_op("ppvae::bernoulli", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def bernoulli(size: list[int], stride: list[int], p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`bernoulli_(p)` of new memory."""
    return _new(size, stride, p, dtype, device).bernoulli_(p)


@bernoulli.register_fake
def _new(size: list[int], stride: list[int], p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


def lay_out_draws(graph: GraphModule) -> None:
    """Makes a traced graph's draws into memory that is not contiguous operations that keep its layout."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.bernoulli_.float):
        memory, drawn = node.args[0], node.meta["val"]
        if memory.target is not aten.empty_like.default or len(memory.users) > 1 or drawn.is_contiguous():
            continue
        p = node.args[1] if len(node.args) > 1 else 0.5
        node.target, node.kwargs = torch.ops.ppvae.bernoulli.default, {}
        node.args = (list(drawn.shape), list(drawn.stride()), p, drawn.dtype, drawn.device)
        graph.graph.erase_node(memory)
    graph.recompile()
