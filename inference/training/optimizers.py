"""Optimizers by name, of torch's fused kind where this is faster."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppvae.rules import Number
from ppvae.wording import shown

EXPECTED = "expected one that makes an optimizer, such as functools.partial(torch.optim.SGD, momentum=0.9)"
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
    """The optimizer of these parameters: by name, or by a function called with the parameters and `lr=lr`.

    Raises:
        TypeError: the function makes none.
    """
    if not isinstance(given, str):
        try:
            found = given(learned, lr=lr)
        except TypeError as error:
            raise TypeError(
                f"optimizer: found {shown(given)}, which does not take parameters and lr ({error}), {EXPECTED}"
            ) from error
        if not isinstance(found, Optimizer):
            raise TypeError(f"optimizer: found {shown(given)}, which makes {shown(found)}, {EXPECTED}")
        if inspect.signature(type(found).step).parameters["closure"].default is inspect.Parameter.empty:
            raise TypeError(
                f"optimizer: found {type(found).__name__}, which evaluates the bound several times within a step, "
                "expected one that is given one gradient, as each evaluation would draw other noise; take 'adam'"
            )
        return found
    # One kernel for all parameters takes a third of the time, but it reads gradients in the order of their storages.
    fused = learned[0].device.type in ("cpu", "cuda") and all(p.is_contiguous() for p in learned)
    return OPTIMIZERS[given](learned, lr=lr, fused=fused)


def rate_factor(schedule: Callable[[int], float], step: int) -> float:
    """What the learning rate is multiplied with at a step.

    Raises:
        ValueError: the schedule returns no number, or one that is below zero or not finite.
    """
    found = schedule(step)
    factor = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
    if Number(at_least=0).problem(factor) is not None:
        raise ValueError(f"schedule: found {shown(factor)} at step {step}, expected a finite factor of 0 or more")
    return float(factor)
