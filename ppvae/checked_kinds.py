"""The batches that a pair need not be checked on again: those of a kind that has passed, with the same weights."""

import enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.batches import Batch, entries, is_rows, tensors
from ppvae.contract import MAX_ROWS

PLAIN = (bool, int, str, bytes, type(None), enum.Enum, np.bool_, np.integer)
"""What a function may branch on: other values are another kind. Other numbers, as an annealing factor, are not."""


class CheckedKinds:
    """Kinds of batches that have passed the check.

    Rows that are all alike say little about whether they depend on each other. So an entry of a batch whose rows differ
    has passed only with rows that differed.
    """

    def __init__(self) -> None:
        self._differed: dict[str, frozenset[str]] = {}
        self._weights: Any = None
        self._changes = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedKinds) and self._differed == other._differed

    __hash__ = None  # type: ignore[assignment]

    def add(self, pair: nn.Module, batch: Batch) -> None:
        """Notes that a batch has passed."""
        kind = _kind(batch)
        self._differed[kind] = self._differed.get(kind, frozenset()) | {n for n in tensors(batch) if _differ(batch, n)}
        self._weights = _digest(pair)

    def cover(self, batch: Batch, look: bool = True) -> bool:
        """Whether batches like this one have passed.

        Args:
            batch: the data.
            look: whether the rows may be looked at; not while a program is traced.
        """
        differed = self._differed.get(_kind(batch))
        if differed is None:
            return False
        return not look or not any(_differ(batch, name) for name in tensors(batch) if name not in differed)

    def clear(self) -> None:
        """Forgets all, as the pair was changed or trained."""
        self._differed.clear()
        self._weights, self._changes = None, 0

    def clear_if_changed(self, pair: nn.Module, in_training: bool = False) -> None:
        """Forgets all if the pair's weights are not those of the last check: rows may depend on each other by now.

        Args:
            pair: whose weights they are.
            in_training: whether they change all the time, so that only the first, second, fourth, ... change counts.
        """
        if self._weights is None or (now := _digest(pair)) in (self._weights, None):
            return
        self._weights = now
        self._changes += 1
        if not in_training or self._changes & (self._changes - 1) == 0:
            self._differed.clear()


def _kind(batch: Batch) -> str:
    """What batches that a pair takes alike have in common."""
    kinds = {
        name: (value.dtype, value.device, list(value.shape[1:])) if is_rows(value) else _described(value)
        for name, value in entries(batch).items()
    }
    return f"{type(batch).__name__} {kinds}"


def _described(value: Any) -> Any:
    """A value that is no data, as far as it decides what a function does: a module by its type, a function by name."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict):
        return {key: _described(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_described(entry) for entry in value]
    return type(value).__name__, getattr(value, "__qualname__", "")


def _differ(batch: Batch, name: str) -> bool:
    """Whether the first rows of an entry differ."""
    few = tensors(batch)[name][:MAX_ROWS].detach()
    return bool((few != few[:1]).any())


def _digest(pair: nn.Module) -> Any:
    """What tells a pair's weights from others; None while others stand in for them, as where a program is traced.

    Versions alone would not do: fused optimizers leave them as they are.
    """
    own = [p for p in pair.parameters() if not (p.is_meta or nn.parameter.is_lazy(p))]
    if not all(isinstance(p, nn.Parameter) for p in own):
        return None
    if not own:
        return ()
    floating = [t if t.is_floating_point() else t.abs().double() for t in (p.detach() for p in own)]
    numbers = [n.to(own[0].device, torch.float64) for t in floating for n in _two_numbers(t)]
    return [id(p) for p in own], torch.stack(numbers).tolist()


def _two_numbers(t: Tensor) -> tuple[Tensor, Tensor]:
    return t.sum(), torch.linalg.vector_norm(t)
