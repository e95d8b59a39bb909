"""Optimizers by name, of torch's fused kind where this is faster."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def refuse_unknown(optimizer: str | Callable[..., Optimizer]) -> None:
    """Refuses the name of no optimizer."""
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer: found '{optimizer}', expected one of {list(OPTIMIZERS)}, or a torch optimizer class"
        )


def refuse_nothing_learned(pair: nn.Module) -> None:
    """Refuses a pair without a parameter to learn."""
    if not any(p.requires_grad for p in pair.parameters()):
        raise ValueError(
            f"pair: found no parameter of {type(pair).__name__} with `requires_grad`, expected at least one; "
            "make what is to be learned an nn.Parameter"
        )


def optimizer_for(given: str | Callable[..., Optimizer], learned: list[nn.Parameter], lr: float) -> Optimizer:
    """The optimizer of these parameters: by name, or by a function called with the parameters and `lr=lr`."""
    if not isinstance(given, str):
        return given(learned, lr=lr)
    # One kernel for all parameters takes a third of the time, but it reads gradients in the order of their storages.
    fused = learned[0].device.type in ("cpu", "cuda") and all(p.is_contiguous() for p in learned)
    return OPTIMIZERS[given](learned, lr=lr, fused=fused)
