"""Values that are one of a few: their indices one-hot, and a refusal of all others."""

import torch
from torch import Tensor
from torch.distributions import constraints


def one_hot(index: Tensor, num: int) -> Tensor:
    """Booleans, `[*, num]`; torch's own looks at the values, which a compiled step cannot."""
    return index.unsqueeze(-1) == torch.arange(num, device=index.device)


def refuse_outside(support: constraints.Constraint, value: Tensor, expected: str) -> None:
    """Raises an error that names the first value outside the support, if any.

    Args:
        support: of single values.
        value: `[*]`.
        expected: the end of the message: what values are expected, and a remedy.
    """
    outside = support.check(value).logical_not().nonzero()
    if len(outside):
        index = tuple(outside[0].tolist())
        raise ValueError(f"found {value[index].item():g} at index {index}, expected {expected}")
