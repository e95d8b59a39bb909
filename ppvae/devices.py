"""Devices that pairs run on: they exist here, and their tensors hold numbers."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ppvae.wording import shown


def device_for(pair: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device that was asked for, with its number; if none was, that of the pair.

    Raises:
        ValueError: the device does not exist here, or holds no numbers, or the pair holds none.
    """
    refuse_without_numbers(pair)
    refuse_without_autograd(pair)
    if device is None:
        return device_of(pair)
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        found = torch.empty(0, device=device).device  # "cuda" is "cuda:0", say
    except (RuntimeError, AssertionError, TypeError) as error:
        remedy = "" if len(here) > 1 else "; torch finds no GPU here, and may be a build for CPUs alone"
        raise ValueError(f"device: found {shown(device)}, expected one of {here}{remedy}") from error
    if found.type == "meta":
        raise ValueError(f"device: found {device!r}, whose tensors hold no numbers, expected one of {here}")
    return found


def refuse_without_numbers(pair: Any) -> None:
    """Refuses a pair with parameters or buffers on the device "meta".

    Raises:
        ValueError: the first such parameter or buffer is named.
    """
    for name, t in itertools.chain(pair.named_parameters(), pair.named_buffers()):
        if t.is_meta:
            raise ValueError(
                f"pair: found '{name}' on the device 'meta', where tensors hold no numbers, expected values; make "
                "it on a device that has them, or load them with `load_state_dict(..., assign=True)`"
            )


def refuse_without_autograd(pair: Any) -> None:
    """Refuses a pair with parameters or buffers that `torch.inference_mode` has made, or that nothing has made yet.

    Raises:
        ValueError: the first such parameter or buffer is named.
    """
    for name, t in itertools.chain(pair.named_parameters(), pair.named_buffers()):
        if is_lazy(t):
            raise ValueError(
                f"pair: found '{name}' of a lazy module without a shape, which the first data decide, expected one; "
                "call pair.check(data) first"
            )
        if t.is_inference():
            raise ValueError(
                f"pair: found '{name}' made within torch.inference_mode(), where tensors take no part in autograd, "
                "expected one that does; make the pair outside, or within torch.no_grad()"
            )


def device_of(pair: nn.Module) -> torch.device:
    """That of the pair's first parameter, or else of its first buffer; the CPU if it has neither."""
    return next((t.device for t in held_by(pair)), torch.device("cpu"))


def gpus(pair: nn.Module) -> list[torch.device]:
    """The GPUs that hold a pair's parameters and buffers, and so draw its noise."""
    return list({t.device for t in held_by(pair) if t.is_cuda})


def held_by(pair: nn.Module) -> Iterator[Tensor]:
    """A pair's parameters, then its buffers."""
    return itertools.chain(pair.parameters(), pair.buffers())
