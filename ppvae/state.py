"""All tensors of a module that training may change, by name: what is kept of a pair, and put back.

A module's `state_dict` leaves out the buffers that are not persistent, and may have entries that are no tensors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of `state_dict`, and the buffers that it leaves out; they share memory with the module's."""
    saved = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    return saved | unsaved_buffers(module)


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of `state_dict`, which go into a file.

    Raises:
        ValueError: a module keeps something else there, as `get_extra_state` may return.
    """
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"pair: found a {type(value).__name__} for '{name}' in its state_dict, expected a tensor, as files "
                "hold tensors alone; return a tensor from get_extra_state, or keep it in a buffer"
            )
    return state


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are not persistent."""
    saved = module.state_dict().keys()
    return {name: b for name, b in module.named_buffers() if name not in saved}


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """`state_of` in memory of its own."""
    return {name: t.detach().clone() for name, t in state_of(module).items()}


def set_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a module the tensors of a state that are named; the others stay."""
    unsaved = unsaved_buffers(module)
    module.load_state_dict({name: t for name, t in state.items() if name not in unsaved}, strict=False)
    with torch.no_grad():
        for name in unsaved.keys() & state.keys():
            unsaved[name].copy_(state[name])
