"""Tensors that count as Python's numbers: they compute in double precision, and give way to tensors in single."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppvae.internals import tree_leaves, tree_map


class AsPythonNumbers(TorchFunctionMode):
    """For the block, takes these tensors, and what is computed from them alone, as Python's numbers are taken.

    A step or a schedule's value is a number in an eager step, and a tensor in a program. `0.1 + 0.9 * step / 350` is
    computed in double precision there, and rounded where it meets a tensor in single precision; here, too.

    Args:
        numbers: tensors without dimensions, in double precision.
    """

    def __init__(self, numbers: Iterable[Tensor]):
        super().__init__()
        self._numbers = {id(t): t for t in numbers}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        others = [t for t in given if id(t) not in self._numbers]
        if len(others) == len(given):
            return func(*args, **kwargs)
        if func in (torch.as_tensor, torch.tensor):  # which give a number of Python the default type
            return func(*args, **{"dtype": torch.get_default_dtype()} | kwargs)
        if others:
            kind = torch.result_type(others[0], 1.0)
            args, kwargs = tree_map(lambda t: t.to(kind) if id(t) in self._numbers else t, (args, kwargs))
        found = func(*args, **kwargs)
        if not others and isinstance(found, Tensor) and found.dtype == torch.float64 and not found.dim():
            self._numbers[id(found)] = found
        return found
