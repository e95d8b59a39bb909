"""What a traced graph computes anew at each call, though it is always the same: computed once, when it is recorded."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, map_arg

from ppvae.inference.compiling.masked_entries import Node

aten = torch.ops.aten
OF_SHAPE = {
    op.default for op in (aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full)
}
"""What they make depends on the shape of a tensor, and not on its entries."""


@torch.no_grad()
def with_constants(graph: GraphModule) -> None:
    """Puts in the place of what depends on no input and on no random number its value.

    What is written to later stays, as it is to be made anew at each call; and so does what is returned.
    """
    values: dict[Node, Any] = {}
    written = _written(graph)
    for node in graph.graph.nodes:
        if node not in written and _is_constant(node, values):
            values[node] = _value(graph, node, values)
    for i, (node, value) in enumerate(values.items()):
        used = any(user not in values for user in node.users)
        if used and node.op == "call_function" and isinstance(value, Tensor):
            graph.register_buffer(f"constant{i}", value)
            with graph.graph.inserting_before(node):
                known = graph.graph.get_attr(f"constant{i}")
            known.meta = node.meta
            node.replace_all_uses_with(known)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _is_constant(node: Node, known: dict[Node, Any]) -> bool:
    if node.target in OF_SHAPE or _is_literal(node):
        return True
    if node.op != "call_function" or not all(given in known for given in node.all_input_nodes):
        return False
    schema, tags = getattr(node.target, "_schema", None), getattr(node.target, "tags", ())
    return schema is None or not (schema.is_mutable or torch.Tag.nondeterministic_seeded in tags)


def _is_literal(node: Node) -> bool:
    """Whether it is a tensor that is made from numbers; others from outside of the function may come to change."""
    return node.target is aten.lift_fresh_copy.default and node.args[0].op == "get_attr"


def _value(graph: GraphModule, node: Node, known: dict[Node, Any]) -> Any:
    def given(other: Node) -> Any:
        if other in known:
            return known[other]
        if other.op == "get_attr":
            return getattr(graph, other.target)
        like = other.meta["val"]  # of which only the shape counts
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)

    return node.target(*map_arg(node.args, given), **map_arg(node.kwargs, given))


def _written(graph: GraphModule) -> set[Node]:
    """The nodes whose memory is written to, or returned, where others may write to it."""
    found: set[Node] = set()
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "output" or (schema is not None and schema.is_mutable):
            for other in node.all_input_nodes:
                _add_shown(other, found)
    return found


def _add_shown(node: Node, found: set[Node]) -> None:
    """Adds a node, and what it is a view of."""
    found.add(node)
    schema = getattr(node.target, "_schema", None)
    if schema is None or any(result.alias_info is not None for result in schema.returns):
        for other in node.all_input_nodes:
            _add_shown(other, found)
