"""Whether an object has what a protocol names."""

from typing import Any, Protocol


def has_all_of(value: Any, protocol: Any) -> bool:
    """Whether a module has all that a protocol names, its own modules and parameters included.

    `isinstance` looks past these from Python 3.12 on.

    Example:
        >>> from torch import nn
        >>> class Scored(Protocol):
        ...     critic: nn.Module
        >>> has_all_of(nn.ModuleDict({"critic": nn.Linear(3, 1)}), Scored), has_all_of(nn.Linear(3, 1), Scored)
        (True, False)
    """
    parts = [base for base in protocol.__mro__ if base not in Protocol.__mro__]
    names = {name for base in parts for name in (*base.__annotations__, *vars(base)) if not name.startswith("_")}
    return all(hasattr(value, name) for name in names)
