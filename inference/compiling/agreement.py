"""Whether a program gives what is given without it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.internals import TorchDispatchMode, tree_leaves

AGREEMENT = 1e-3
"""The largest relative difference between a compiled value and the eager one, which sums in another order."""
GRADIENTS = 1e-2
"""The same of a gradient as a vector, and the share of a result's entries that may differ more, as a draw does whose
probability was rounded to the other side."""
WHY = (
    "does the model, the guide or the objective decide something in Python that changes from call to call, or keep "
    "state outside parameters and buffers?"
)
NOISE = 1e-3
"""Of the size of the largest result: what is smaller may be rounding alone."""
HALF = (torch.bfloat16, torch.float16)
COARSER = 10.0
"""How many times as far results may differ where some are computed in half precision."""


class Precision(TorchDispatchMode):
    """Notes whether anything within is computed in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.half = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.half = self.half or any(isinstance(t, Tensor) and t.dtype in HALF for t in tree_leaves(result))
        return result


def refuse_other_results(found: Sequence[Tensor], expected: Sequence[Tensor], exact: bool, half: bool = False) -> None:
    """Refuses a program that returns something else; the first result is the bound, and whether all is finite.

    Args:
        found: what the program returns.
        expected: what is given without it.
        exact: whether all must be equal to the last bit.
        half: whether some of it was computed in half precision.

    Raises:
        CannotCompileError: to the last bit if `exact`, else by more than rounding.
    """
    if len(found) != len(expected):
        raise CannotCompileError(
            f"compiled, there are {len(found)} gradients, buffers and other results, eagerly {len(expected)}: {WHY}"
        )
    coarser = COARSER if half else 1.0
    largest = max([_norm(t) for t in expected[1:]], default=0.0)
    for number, e in enumerate(expected):
        f = found[number]
        if f.shape == e.shape and (
            same_numbers(f, e) or not (exact or _far(f, e, largest if number else None, coarser))
        ):
            continue
        at = "the last bit" if exact else "rounding"
        shown = [t.flatten()[0].item() if t.numel() else None for t in (found[0], expected[0])]
        what = (
            f"the compiled bound is {shown[0]}, the eager one {shown[1]}"
            if number == 0 and shown[0] != shown[1]
            else f"a compiled gradient, buffer or other result is not the eager one to {at}"
        )
        raise CannotCompileError(f"{what}: {WHY}")


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether all entries are equal, NaN to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


@torch.no_grad()
def _far(found: Tensor, expected: Tensor, largest: float | None, coarser: float) -> bool:
    """Whether a result is another one; `largest` is the norm of the largest, and None for the bound."""
    f, e = _numbers(found), _numbers(expected)
    if not e.isfinite().all() or not e.numel():
        return False  # what is not finite is not used
    size = 1.0 if largest is None else e.square().mean().sqrt().item() + NOISE * GRADIENTS * largest
    off = ((f - e).abs() <= coarser * AGREEMENT * (e.abs() + size)).logical_not()
    near = largest is not None and float((f - e).norm()) <= coarser * GRADIENTS * (_norm(e) + NOISE * largest)
    return not near and bool(off.double().mean() > (GRADIENTS if e.numel() > 1 else 0))


def _norm(t: Tensor) -> float:
    numbers = _numbers(t.detach())
    return float(numbers.norm()) if numbers.isfinite().all() else 0.0


def _numbers(t: Tensor) -> Tensor:
    return (torch.view_as_real(t) if t.is_complex() else t).double()
