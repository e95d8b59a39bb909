"""What a compiled program takes: the tensors among its arguments. Everything else among them is written into it."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ppvae.internals import tree_flatten, tree_leaves, tree_unflatten

PLAIN = (type(None), bool, int, float, complex, str)
"""What can be written into a program: values that cannot change and are known by their `repr`."""


class CannotCompileError(RuntimeError):
    """Something cannot be compiled; the message says why."""


def tensors_in(arguments: Any) -> list[Tensor]:
    """The tensors among the arguments, wherever in tuples, lists and dicts they are."""
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]


def taken_apart(arguments: Any) -> tuple[list[Tensor], Callable[[Iterable[Tensor]], Any]]:
    """The tensors among the arguments, and what puts others in their places.

    Raises:
        CannotCompileError: there is something that cannot be written into a program, as it may change unseen.
    """
    leaves, structure = tree_flatten(arguments)
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *PLAIN)):
            raise CannotCompileError(
                f"found a {type(leaf).__name__} among the arguments, expected tensors, numbers, strings and None, as "
                "anything else may change without the program's knowing; make it a part of the pair"
            )

    def put_together(tensors: Iterable[Tensor]) -> Any:
        own = iter(tensors)
        return tree_unflatten([next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)

    return [leaf for leaf in leaves if isinstance(leaf, Tensor)], put_together


def kind_of(arguments: Any) -> tuple[Any, ...]:
    """What arguments of one program share: the containers' types and keys, the tensors' layouts, all other values.

    A structure is known by its text, as not every torch hashes one that has a dictionary in it. Values are known by
    their types and texts: 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    """
    leaves, structure = tree_flatten(arguments)
    return (repr(structure), *[_kind(leaf) for leaf in leaves])


def _kind(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, Tensor):
        strides = tuple(stride for size, stride in zip(leaf.shape, leaf.stride(), strict=True) if size > 1)
        return leaf.shape, strides, leaf.dtype, leaf.device
    return type(leaf), repr(leaf) if isinstance(leaf, PLAIN) else id(leaf)
