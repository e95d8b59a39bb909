"""What all public measurements have in common: whose work they are, and that nothing around them disturbs them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ppvae.devices import device_of, refuse_without_autograd
from ppvae.inference.runtime.descriptions import Described, arguments_described
from ppvae.inference.runtime.distributed import group_for, shared
from ppvae.threads import undisturbed

F = TypeVar("F", bound=Callable[..., Any])


def measurement(function: F) -> F:
    """A function that measures a pair, its first argument: one thread at a time, under autograd's own settings.

    With `distributed`, the processes of torch's process group share its work, once they have agreed on all arguments,
    and all get the result. Without, it is this process's own, whatever the others do.
    """
    signature = inspect.signature(function)

    @undisturbed
    @functools.wraps(function)
    def measured(pair: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(pair, nn.Module):
            refuse_without_autograd(pair)
        if (distributed := kwargs.get("distributed", False)) is False:
            return function(pair, *args, **kwargs)

        def settings() -> Described:
            bound = signature.bind(pair, *args, **kwargs)
            bound.apply_defaults()
            return arguments_described(bound.arguments)

        group = group_for(distributed, device_of(pair))
        group.agree(settings)
        with shared(group), group.telling():
            return function(pair, *args, **kwargs)

    return measured  # type: ignore[return-value]
