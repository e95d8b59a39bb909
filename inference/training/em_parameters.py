"""What EM does with a mixture's parameters: it changes those that are learned, and where it fails, none."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def whole_or_not_at_all(mixture: Any) -> Iterator[None]:
    """Gives the mixture its parameters back where EM fails, as where it changes some that are frozen."""
    before = copy.deepcopy(mixture.state_dict())
    try:
        yield
        _refuse_changed(mixture, before)
    except Exception:
        mixture.load_state_dict(before)
        raise


def _refuse_changed(mixture: Any, before: dict[str, Tensor]) -> None:
    """Refuses to have changed a parameter that is frozen."""
    named = mixture.named_parameters() if isinstance(mixture, nn.Module) else ()
    frozen = {name: p for name, p in named if not p.requires_grad}
    if changed := sorted(name for name, p in frozen.items() if not torch.equal(p, before[name])):
        raise ValueError(
            f"mixture: found {changed} frozen (`requires_grad` is False), expected parameters that EM may change; keep "
            "them by fit_em(init='current', update=) of the others, or call mixture.requires_grad_()"
        )
