"""Entries chosen by a mask, in a traced graph: rewritten so that no shape depends on the mask's values, if possible.

`a[mask] = b[mask]` takes as many entries as the mask happens to have, yet equals `torch.where(mask, b, a)`. Pyro's
splines are written so, and the gradients of such assignments are too.
"""

from typing import Any

import torch
from torch.fx import GraphModule

from ppvae.inference.compiling.inputs import CannotCompileError

aten = torch.ops.aten
Node = Any
"""A `torch.fx.Node`, whose arguments have types too wide to be of use."""

IN_PLACE = (aten.index_put_.default, aten._index_put_impl_.default)
PUT = (aten.index_put.default, *IN_PLACE)


def without_masked_shapes(graph: GraphModule) -> None:
    """Rewrites assignments between entries of one mask; refuses what else has a shape that depends on values.

    Raises:
        CannotCompileError: an operation's shape depends on values, as that of `x[mask]` does.
    """
    node: Node
    for node in list(graph.graph.nodes):
        if node.target is aten.new_zeros.default and node.args[0].target is aten.index.Tensor:
            node.replace_input_with(node.args[0], node.args[0].args[0])  # of which it takes the type alone
        elif node.target in PUT and (values := _whole(graph, node)) is not None:
            _put(graph, node, values)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    for node in graph.graph.nodes:
        if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        if node.target is not aten.index.Tensor or any(_is_mask(index) for index in node.args[1]):
            raise CannotCompileError(
                f"{node.target}: found a shape that depends on values, as that of x[mask] does; expected the same "
                "shape at every call, like that of torch.where(mask, x, 0)"
            )


def _whole(graph: GraphModule, put: Node) -> Node | None:
    """What `put` assigns entries of, in the shape of all of it; None where that is not known."""
    into, indices, values = put.args[:3]
    if len(indices) != 1 or not _is_mask(indices[0]) or indices[0].meta["val"].shape != into.meta["val"].shape:
        return None
    if not _unchanged_between(values, put):
        return None
    if values.target is aten.index.Tensor:
        source, own_indices = values.args
        same = list(own_indices) == list(indices) and source.meta["val"].shape == into.meta["val"].shape
        return source if same else None
    if values.target in (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default):
        with graph.graph.inserting_before(put):
            return graph.graph.call_function(aten.zeros_like.default, (into,))
    return None


def _unchanged_between(first: Node, last: Node) -> bool:
    """Whether no operation between two writes into a tensor, as where `a[m]` and `b[m]` are exchanged."""
    node = first.next
    while node is not last:
        if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:
            return False
        node = node.next
    return True


def _put(graph: GraphModule, put: Node, values: Node) -> None:
    """The assignment as a choice between two tensors of one shape."""
    into, (mask,), _, *rest = put.args
    with graph.graph.inserting_before(put):
        if rest and rest[0]:  # accumulate
            values = graph.graph.call_function(aten.add.Tensor, (into, values))
        chosen = graph.graph.call_function(aten.where.self, (mask, values, into))
        if put.target in IN_PLACE:
            chosen = graph.graph.call_function(aten.copy_.default, (into, chosen))
    chosen.meta = dict(put.meta)
    put.replace_all_uses_with(chosen)
    graph.graph.erase_node(put)


def _is_mask(index: Node | None) -> bool:
    return index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8)
