"""Modalities by name, and what is missing of them: batches of data that lack some, and hiding some in training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.arguments import checked
from ppvae.sources import as_tensor

FEW_MODALITIES, MOST_MODALITIES = 16, 45
"""Whose subsets random numbers of 24 and of 53 bits tell apart."""


@checked
def batch_with_missing(modalities: Mapping[str, Any]) -> dict[str, Tensor]:
    """A batch from modalities in which NaN stands for what is missing: NaN becomes zero, and `has` says what is there.

    Args:
        modalities: tensors or arrays `[N, *event]`, by name. A row's modality is whole, or all of it is NaN.

    Returns:
        The modalities, and `has`, bool `[N, M]`, in their order.

    Raises:
        ValueError: a row of which a modality is partly there (its index is named): mask single numbers in a model of
            your own.

    Example:
        >>> nan = float("nan")
        >>> batch = batch_with_missing({"a": torch.tensor([[1.0, 2.0], [nan, nan]]), "b": torch.tensor([3.0, 4.0])})
        >>> batch["has"].tolist(), batch["a"].tolist()
        ([[True, True], [False, True]], [[1.0, 2.0], [0.0, 0.0]])
    """
    tensors = {name: as_tensor(f"modalities[{name}]", x) for name, x in modalities.items()}
    missing = {name: x.isnan().reshape(len(x), -1) for name, x in tensors.items()}
    for name, nan in missing.items():
        partly = nan.any(-1) & ~nan.all(-1)
        if partly.any():
            row = int(partly.nonzero()[0])
            raise ValueError(
                f"modalities[{name}]: found row {row} with NaN in {int(nan[row].sum())} of {nan.shape[1]} numbers, "
                "expected none or all of them; mask single numbers in a model of your own"
            )
    has = torch.stack([~nan.all(-1) for nan in missing.values()], -1)
    return {name: x.masked_fill(x.isnan(), 0) for name, x in tensors.items()} | {"has": has}


def by_modality(argument: str, modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """The modules of modalities; their names are those of sites, too.

    Raises:
        ValueError: a name that another site or argument has, as "data", the plate's, or an attribute of all modules.
    """
    own = nn.ModuleDict()
    for name in modules:
        if name in ("", "data", "self") or "." in name or hasattr(own, name):
            raise ValueError(
                f"{argument}: found a modality called {name!r}, expected a name without a dot that neither a pair's "
                "plate nor a module's attribute has; rename it, in the data too"
            )
    return nn.ModuleDict(modules)


def kept_at_random(has: Tensor) -> Tensor:
    """A mask like `has`, `[B, M]`, of a subset of what each row has, drawn uniformly from those that are not empty."""
    if (most := has.shape[-1]) > MOST_MODALITIES:
        raise ValueError(f"has: found {most} modalities, expected {MOST_MODALITIES} at most to hide some at random")
    place = has.cumsum(-1) - 1
    num = 2 ** has.sum(-1, keepdim=True) - 1
    dtype = torch.float64 if most > FEW_MODALITIES else None
    subset = 1 + (torch.rand(num.shape, dtype=dtype, device=has.device) * num).long()
    return has & ((subset >> place.clamp(min=0)) % 2 == 1)


def which_are_there(x: Mapping[str, Tensor], has: Tensor | None, names: Sequence[str]) -> Tensor:
    """Which of the modalities `names` each row of a batch has, bool `[B, M]`; all of them where `has` is None."""
    if set(x) != set(names):
        raise ValueError(
            f"data: found modalities {list(x)}, expected {names}; give zeros for what is missing, and `has`"
        )
    first = x[names[0]]
    if has is None:
        return torch.ones(len(first), len(names), dtype=torch.bool, device=first.device)
    if has.dim() != 2 or has.shape[1] != len(names):
        raise ValueError(f"has: found shape {list(has.shape)}, expected [B, {len(names)}], columns for {names}")
    return has.bool()


def zero_where_missing(t: Tensor, there: Tensor) -> Tensor:
    """A modality with zeros for what is missing, so that no network sees what stands in for it."""
    return torch.where(there.reshape(-1, *(1,) * (t.dim() - 1)), t, torch.zeros_like(t))
