"""How much work something is, by the tensors that it makes."""

from typing import Any

from torch import Tensor

from ppvae.internals import TorchDispatchMode, tree_leaves


class ElementCount(TorchDispatchMode):
    """Counts the elements of all tensors made under it."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result
