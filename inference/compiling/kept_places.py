"""Places where Python keeps values: whether one still has what it had, and how it gets that back."""

import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.inference.compiling.inputs import PLAIN

NUMBERS = (*PLAIN, np.generic)


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
            said.append(f"{self.where}{name}: found {shown}{old}")
        return said + [f"{self.where}{name}: found nothing" for name in self.before.keys() - now.keys()]

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

    def changes(self, met: Sequence[Tensor]) -> list[str]:
        """What has changed, in words."""
        return [] if self.stays() else [f"{self.where}: found a {self.what}"]


def of_tensor(where: str, t: Tensor, copies: bool) -> Content:
    """A tensor's content; without a copy, writing to it is seen, but cannot be undone."""
    version = None if t.is_inference() else t._version
    whole = _memory(t)
    before = whole.detach().clone() if copies else None

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
    if t.layout != torch.strided or t.is_nested or t.is_quantized:
        return t
    size = t.untyped_storage().nbytes() // max(t.element_size(), 1)
    return t.detach().as_strided((size,), (1,), 0) if size < t.numel() else t


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


def parts(value: Any) -> dict[Any, Any]:
    """What makes an object what it is, as far as Python shows it."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, (list, tuple, deque)):
        return dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return dict.fromkeys(value, True)
    if isinstance(value, np.ndarray):
        return dict(enumerate(value.flat))
    if isinstance(value, types.FunctionType):
        return {"code": value.__code__} | {name: cell.cell_contents for name, cell in filled_cells(value).items()}
    if isinstance(value, types.CodeType):
        return {}
    return attributes(value) | slots(value)


def attributes(value: Any) -> dict[str, Any]:
    """The dictionary of an object's attributes; an empty one of its own where it has none."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def slots(value: Any) -> dict[str, Any]:
    """What is in an object's slots."""
    found = {}
    for name, member in slots_of(type(value)):
        try:
            found[name] = member.__get__(value)
        except AttributeError:
            continue  # nothing is
    return found


def slots_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The slots that classes define in Python, by name."""
    for base in kind.__mro__:
        if "__slots__" in vars(base):
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    yield name, member


def put_slots(value: Any, old: dict[str, Any]) -> None:
    """Puts these into an object's slots, and empties the others."""
    for name, member in slots_of(type(value)):
        if name in old:
            member.__set__(value, old[name])
        elif name in slots(value):
            member.__delete__(value)


def filled_cells(function: types.FunctionType) -> dict[str, types.CellType]:
    """What a function has of the functions around it, by name, as far as it is there."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:
            continue
        found[name] = cell
    return found


def refill(holder: Any, old: dict[Any, Any]) -> None:
    """Gives a dict, list, deque, set or array of objects what it had."""
    if isinstance(holder, dict):
        kind = OrderedDict if isinstance(holder, OrderedDict) else dict
        kind.clear(holder)
        for name, value in old.items():
            kind.__setitem__(holder, name, value)
    elif isinstance(holder, np.ndarray):
        for i, value in old.items():
            holder.flat[i] = value
    elif isinstance(holder, set):
        holder.clear()
        holder.update(old)
    else:
        holder.clear()
        holder.extend(old.values())


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
