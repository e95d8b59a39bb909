"""Counters of steps in a traced graph: those that are advanced together share memory, and one addition advances them.

An optimizer has a counter for each parameter. To advance a dozen of them takes longer than to update the parameters of
a small network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule


def advance_at_once(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Rewrites additions of one number to a list of inputs without dimensions; moves these inputs to shared memory."""
    given = dict(zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=True))
    additions = graph.graph.find_nodes(op="call_function", target=torch.ops.aten._foreach_add_.Scalar)
    node: Any
    for number, node in enumerate(additions):
        counters = [given[counter] for counter in node.args[0] if counter in given]
        if len(counters) < len(node.args[0]) or any(counter.dim() for counter in counters):
            continue
        if (together := shared(counters)) is None:
            continue
        name = f"counters_{number}"
        graph.register_buffer(name, together)
        with graph.graph.inserting_before(node):
            graph.graph.call_method("add_", (graph.graph.get_attr(name), *node.args[1:]))
        graph.graph.erase_node(node)


def shared(counters: Sequence[Tensor]) -> Tensor | None:
    """The counters in one tensor, of which each is an entry, or becomes one.

    None if another graph has some of them in a tensor with others, which they must not leave.
    """
    first, size = counters[0], counters[0].element_size()
    if all(counter.data_ptr() == first.data_ptr() + i * size for i, counter in enumerate(counters)):
        return first.detach().as_strided((len(counters),), (1,))
    if any(counter.untyped_storage().nbytes() > size for counter in counters):
        return None
    together = torch.stack(list(counters))
    for counter, entry in zip(counters, together, strict=True):
        counter.data = entry
    return together
