"""What may change from call to call: whether it still is what it was, and how it becomes that again."""

import types
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.inference.compiling.agreement import same_numbers
from ppvae.inference.compiling.inputs import PLAIN
from ppvae.inference.compiling.object_parts import CONTAINERS, GENERATORS, HOLDERS, Globals, parts, restore
from ppvae.internals import memory_of

STAYS = "expected what stays from call to call"
KEEP = f"{STAYS}, as a program holds its value; keep what changes in a buffer, changed in place"
DRAW = f"{STAYS}, as a program does not draw from it; draw by torch, without a generator"


class Place:
    """An object, of whose parts others may take the place.

    Args:
        holder: the object.
        where: it is, in words.
    """

    def __init__(self, holder: Any, where: str):
        self.holder, self.where, self.before = holder, where, parts(holder)

    def path(self, name: Any) -> str:
        """Where the part of this name is."""
        kind = type(self.holder)
        if kind is types.CellType:
            return self.where
        if kind is Globals:
            return f"{self.where}{name}"
        if kind is types.FunctionType:
            return f"{self.holder.__name__}, {name}"
        if issubclass(kind, (*CONTAINERS, np.ndarray)):
            return f"{self.where}: {name}"
        if issubclass(kind, HOLDERS):
            return f"{self.where}.{name}"
        return f"{self.holder.__name__ if issubclass(kind, type) else kind.__name__}.{name}"

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        """What has changed, in words; `met` are the tensors of which an old value matters."""
        now, said = parts(self.holder), []
        for name, new in now.items():
            if self._is_other(name, new, met):
                old = f" after {self.before[name]!r}" if isinstance(self.before.get(name), PLAIN[1:]) else ""
                said.append(f"{self.path(name)}: found {repr(new) if _is_plain(new) else _a(new)}{old}, {KEEP}")
        return said + [f"{self.path(name)}: found nothing, {KEEP}" for name in self.before.keys() - now.keys()]

    def put_back(self) -> None:
        """Makes it what it was."""
        restore(self.holder, self.before)

    def _is_other(self, name: Any, new: Any, met: Sequence[Tensor]) -> bool:
        if name in self.before:
            return differs(self.before[name], new, met)
        # No call depended on what is new among attributes or globals, unless it begins to count.
        return issubclass(type(self.holder), CONTAINERS) or (new is not None and _is_plain(new))


class Content(Place):
    """An array or a generator of random numbers, which changes as a whole."""

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        if not differs(self.before, parts(self.holder)):
            return []
        verb, remedy = ("draws from", DRAW) if isinstance(self.holder, GENERATORS) else ("writes to", KEEP)
        return [f"{self.where}: found {_a(self.holder)} that a call {verb}, {remedy}"]


class Memory:
    """A tensor, which may be written to.

    Args:
        t: the tensor.
        where: it is, in words.
        most: bytes that a copy may take; without one, writing is seen, but cannot be undone.
    """

    def __init__(self, t: Tensor, where: str, most: int):
        self._t, self.where = t, where
        self._version = None if t.is_inference() else t._version
        whole = _whole(t)
        copies = not _is_odd(t) and whole.nbytes <= most
        self._before = whole.detach().clone() if copies else None
        self.num_bytes = whole.nbytes if copies else 0

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        """As of a `Place`."""
        written = self._version is not None and self._t._version != self._version
        if not written and (self._before is None or same_numbers(self._before, _whole(self._t).detach())):
            return []
        return [f"{self.where}: found {_a(self._t)} that a call writes to, {KEEP}"]

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes it what it was, if that is known."""
        if self._before is not None:
            _whole(self._t).copy_(self._before)


def _whole(t: Tensor) -> Tensor:
    """The tensor, or, where it shows numbers several times, as `expand` does, all that it may show, once."""
    if _is_odd(t) or t.is_quantized:
        return t
    size = t.untyped_storage().nbytes() // max(t.element_size(), 1)
    return t.detach().as_strided((size,), (1,), 0) if size < t.numel() else t


def _is_odd(t: Tensor) -> bool:
    return t.layout != torch.strided or t.is_nested


def differs(old: Any, new: Any, met: Sequence[Tensor] = ()) -> bool:
    """Whether a value that took another's place says something else; whatever cannot be compared does.

    A tensor does only where the old one is among those that were met; an object of the same class where its parts do.
    None in the place of anything but a number is what was forgotten; a weak reference is what it refers to.
    """
    pairs: list[tuple[Any, Any]] = [(old, new)]
    seen: dict[tuple[int, int], Any] = {}
    while pairs:
        a, b = map(_referred, pairs.pop())
        if a is b or (id(a), id(b)) in seen:
            continue
        seen[id(a), id(b)] = a, b  # kept, as other objects would get their ids
        if _is_plain(a) or _is_plain(b):
            forgotten, set_first = b is None and not _is_plain(a), a is None and not _is_plain(b)
            same = type(a) is type(b) and repr(a) == repr(b)
            if not (forgotten or set_first or same):
                return True
        elif issubclass(type(a), Tensor):
            if memory_of(a) in [memory_of(t) for t in met]:
                return True
        elif type(a) is not type(b):
            return True
        else:
            within, others = parts(a), parts(b)
            if within.keys() != others.keys() or (not within and not _is_equal(a, b)):
                return True
            pairs += [(part, others[name]) for name, part in within.items()]
    return False


def _referred(value: Any) -> Any:
    """What a weak reference refers to, None if it is gone; any other value itself."""
    return value() if type(value) is weakref.ref else value


def _is_plain(value: Any) -> bool:
    return issubclass(type(value), (*PLAIN, np.generic))


def _a(value: Any) -> str:
    return f"a {type(value).__name__}"


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # of any kind: users' code
        return False
