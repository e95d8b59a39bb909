"""Views that show a tensor as it already is, in a traced graph: left out, as each takes a microsecond to make."""

import torch
from torch import Tensor
from torch.fx import GraphModule

from ppvae.inference.compiling.masked_entries import Node

aten = torch.ops.aten
OTHERS = (aten.as_strided.default, aten._conj.default, aten._neg_view.default)
"""What the first shows depends on how its tensor lies in memory; the others show other numbers in the same memory."""


def without_idle_views(graph: GraphModule) -> None:
    """Replaces each view that has the shape and the layout of a tensor that it shows, as `t(t(x))` has, by that one."""
    node: Node
    for node in list(graph.graph.nodes):
        for shown in _shown(node):
            if _look_alike(shown.meta["val"], node.meta["val"]):
                node.replace_all_uses_with(shown)
                break
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _shown(view: Node) -> list[Node]:
    """What a view shows, and what that shows if it is a view too, and so on; the first of all comes first."""
    chain: list[Node] = []
    while _is_view(view):
        view = view.args[0]
        chain.insert(0, view)
    return chain


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or len(schema.returns) != 1 or node.target in OTHERS:
        return False
    aliased = schema.returns[0].alias_info
    return aliased is not None and not aliased.is_write and isinstance(node.meta.get("val"), Tensor)


def _look_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one storage have the same entries in the same places, however it lies in memory."""
    own_places = all(stride > 0 or size == 1 for size, stride in zip(a.shape, a.stride(), strict=True))
    same_places = (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
    return own_places and same_places and a.dtype == b.dtype
