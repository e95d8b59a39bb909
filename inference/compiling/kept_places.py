"""Places where Python keeps values: whether one still has what it had, and how it gets that back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.inference.compiling.inputs import PLAIN
from ppvae.inference.compiling.object_parts import parts

NUMBERS = (*PLAIN, np.generic)
STAYS = "expected what stays from call to call"
KEEP = f"{STAYS}, as a program holds its value; keep what changes in a buffer, changed in place"
DRAW = f"{STAYS}, as a program does not draw from it; draw by torch, without a generator"


@dataclass
class Names:
    """Something that holds values by name or number.

    Attributes:
        where: it is, in words.
        now: what it holds.
        put: gives it this instead.
        filled_freely: whether what is no number may come to be added.
    """

    where: str
    now: Callable[[], dict[Any, Any]]
    put: Callable[[dict[Any, Any]], Any]
    filled_freely: bool = False
    before: dict[Any, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.before = dict(self.now())

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        """What has changed, in words; `met` are the tensors of which an old value matters."""
        now = self.now()
        found = {name: value for name, value in now.items() if self._differs(name, value, met)}
        said = []
        for name, value in found.items():
            old = f" after {self.before[name]!r}" if isinstance(self.before.get(name), PLAIN[1:]) else ""
            shown = (
                repr(value) if type(value) in PLAIN or isinstance(value, np.generic) else f"a {type(value).__name__}"
            )
            said.append(f"{self.where}{name}: found {shown}{old}, {KEEP}")
        return said + [f"{self.where}{name}: found nothing, {KEEP}" for name in self.before.keys() - now.keys()]

    def put_back(self) -> None:
        """Gives it what it had."""
        self.put(self.before)

    def _differs(self, name: Any, new: Any, met: Sequence[Tensor]) -> bool:
        if name in self.before:
            return differs(self.before[name], new, met)
        return not self.filled_freely or (new is not None and isinstance(new, NUMBERS))


@dataclass
class Content:
    """Something that is changed in place: a tensor, an array, a generator of random numbers."""

    where: str
    what: str
    stays: Callable[[], bool]
    put_back: Callable[[], Any]
    remedy: str = KEEP

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        """What has changed, in words."""
        return [] if self.stays() else [f"{self.where}: found a {self.what}, {self.remedy}"]


def of_tensor(where: str, t: Tensor, copies: bool) -> Content:
    """A tensor's content; without a copy, writing to it is seen, but cannot be undone."""
    version = None if t.is_inference() else t._version
    copies = copies and not _is_odd(t)
    before = _memory(t).detach().clone() if copies else None

    def stays() -> bool:
        written = version is not None and t._version != version
        return not written and (before is None or same_numbers(before, _memory(t).detach()))

    @torch.no_grad()
    def put_back() -> None:
        if before is not None:
            _memory(t).copy_(before)

    return Content(where, f"{type(t).__name__} that a call writes to", stays, put_back)


def num_bytes(t: Tensor) -> int:
    """How much a copy of what a tensor shows takes."""
    whole = _memory(t)
    return whole.numel() * whole.element_size()


def _memory(t: Tensor) -> Tensor:
    """The tensor, or, where it shows numbers several times, as `expand` does, all that it may show, once."""
    if _is_odd(t) or t.is_quantized:
        return t
    size = t.untyped_storage().nbytes() // max(t.element_size(), 1)
    return t.detach().as_strided((size,), (1,), 0) if size < t.numel() else t


def _is_odd(t: Tensor) -> bool:
    return t.layout != torch.strided or t.is_nested


def of_array(where: str, array: np.ndarray) -> Content:
    """The content of an array of anything but objects."""
    before = array.copy()

    def put_back() -> None:
        array[...] = before

    return Content(where, "ndarray that a call writes to", lambda: array.tobytes() == before.tobytes(), put_back)


def address(t: Tensor) -> int:
    """Where a tensor's memory begins; that of a tensor that lies nowhere is its own."""
    try:
        return t.untyped_storage().data_ptr() or id(t)
    except (RuntimeError, NotImplementedError):
        return id(t)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether all entries are equal, NaN to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def differs(old: Any, new: Any, met: Sequence[Tensor] = ()) -> bool:
    """Whether a value that took another's place says something else; whatever cannot be compared does.

    A tensor does only where the old one is among those that were met; an object of the same class where its attributes
    do. None in the place of anything but a number is what was forgotten.
    """
    pairs, seen = [(old, new)], set()
    while pairs:
        a, b = pairs.pop()
        if a is b or (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if type(a) in PLAIN or type(b) in PLAIN or isinstance(a, np.generic):
            forgotten = b is None and type(a) not in PLAIN and not isinstance(a, np.generic)
            set_first = a is None and not isinstance(b, NUMBERS)
            if not forgotten and not set_first and (type(a) is not type(b) or repr(a) != repr(b)):
                return True
        elif isinstance(a, Tensor):
            if any(_is_same(a, tensor) for tensor in met):
                return True
        elif isinstance(a, np.ndarray) and a.dtype != object:
            if not (isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape):
                return True
            if a.tobytes() != b.tobytes():
                return True
        elif type(a) is not type(b):
            return True
        else:
            within, others = parts(a), parts(b)
            if within.keys() != others.keys() or (not within and not _is_equal(a, b)):
                return True
            pairs += [(part, others[name]) for name, part in within.items()]
    return False


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # of any kind: users' code
        return False


def _is_same(a: Tensor, b: Tensor) -> bool:
    try:
        return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.numel() > 0)
    except RuntimeError:  # it lies nowhere, as on the meta device, or in several places
        return False
