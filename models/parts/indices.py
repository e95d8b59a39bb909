"""Values that are one of a few: their indices one-hot, and a refusal of all others."""

import torch
from torch import Tensor
from torch.distributions import constraints


def one_hot(index: Tensor, num: int) -> Tensor:
    """Booleans, `[*, num]`; torch's own looks at the values, which a compiled step cannot."""
    return index.unsqueeze(-1) == torch.arange(num, device=index.device)


def label_vectors(label: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Labels `[*]` as vectors with a one at the label, `[*, num_classes]`, of the type of `like`.

    Raises:
        ValueError: a label that is no class; on a GPU torch's own error.
    """
    index = label if label.is_floating_point() else label.long()
    try:
        return like.new_zeros(*label.shape, num_classes).scatter(-1, index.unsqueeze(-1), 1.0)
    except RuntimeError as error:
        raise ValueError(
            f"labels: found {label.dtype} from {label.min()} to {label.max()}, expected whole numbers from 0 to "
            f"{num_classes - 1}; number the classes from 0, pass labels.long(), with any class where one is missing"
        ) from error


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
