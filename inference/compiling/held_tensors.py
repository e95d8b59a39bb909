"""Tensors that a traced function was not given: a program holds them as they are, and takes no gradients of them."""

from collections.abc import Sequence

from torch import Tensor
from torch.fx import GraphModule

from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.internals import memory_of


def held_tensors(graph: GraphModule) -> list[Tensor]:
    """The tensors in a traced graph that are neither inputs nor results."""
    found = [getattr(graph, str(node.target)) for node in graph.graph.find_nodes(op="get_attr")]
    return [each for each in found if isinstance(each, Tensor)]  # others are generators


def refuse_learned(held: Sequence[Tensor], learned: Sequence[Tensor]) -> None:
    """Refuses what is learned, where a function reaches it past the copies that it is given in its place.

    Raises:
        CannotCompileError: a tensor requires a gradient, or shares memory with one of those that are learned.
    """
    addresses = {memory_of(t) for t in learned}
    for t in held:
        if learned and (t.requires_grad or memory_of(t) in addresses):
            raise CannotCompileError(
                f"found a parameter of shape {tuple(t.shape)} that is reached by a second reference, as from a list, a "
                "closure or a tensor that shares its memory; expected it as an attribute of its module, where a "
                "program replaces it: a second reference would get no gradient. Read it from the pair at each "
                "call, as by self.parameters(), or keep several in an nn.ParameterList"
            )
