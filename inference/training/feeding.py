"""The data points of each step: from memory in a new order each epoch, or from an iterable in its own.

Data that would take most of a GPU's free memory stay on the host. While the GPU takes a step, the data points of the
next one are gathered in pinned memory and copied on a stream of their own.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ppvae.batches import Batch, as_batch, map_batch, num_rows, rows, tensors
from ppvae.conversion import Types, converted
from ppvae.inference.runtime.checkpoint import fingerprint
from ppvae.inference.runtime.descriptions import Described, described
from ppvae.inference.runtime.distributed import Processes
from ppvae.inference.runtime.isolation import derived_seed, own_randomness

ROOM = 0.5
"""The share of a GPU's free memory that data may take; the rest is for the steps."""

Feed: TypeAlias = Callable[[Tensor, Tensor], Batch]
"""`(index of a step's data points, index of the next step's or none) -> the step's data points, on the device`."""


@dataclass(frozen=True)
class Minibatch:
    """What a step is taken on: memory of its own, on the device.

    Attributes:
        data: this process's data points, of the types that the transform or the pair takes.
        index: their places in all the data, or in the batch of an iterable.
        num_points: of all processes.
        weights: of this process's data points, if they are weighed.
        whole: those of all processes as they are in the iterable, if these have not agreed on them before.
    """

    data: Batch
    index: Tensor
    num_points: int
    weights: Tensor | None = None
    whole: Batch | None = None


class Source(Protocol):
    """Where minibatches come from.

    Attributes:
        steps_per_epoch: how many there are in an epoch, where that is known.
        batch_size: of all but the last, where that is known.
        whole_steps: how many of an epoch's first steps are of that size, and can be taken anew.
        description: as JSON can hold it, to tell whether a run goes on with the same data.
        agreed: whether processes with the same `described` have the same minibatches.
    """

    steps_per_epoch: int | None
    batch_size: int | None
    whole_steps: int
    agreed: bool

    @property
    def description(self) -> Any: ...

    def described(self) -> Described:
        """The data, as processes that share them tell each other."""
        ...

    def minibatches(self, epoch: int, done: int) -> Iterator[Minibatch]:
        """Those of an epoch, but for the first `done`."""
        ...


class Shuffled:
    """Data in memory, each epoch in an order of its own that the seed decides; as they are, if one step takes all.

    `types` gives those that the rows of a batch are converted to.
    """

    agreed = True

    def __init__(
        self,
        data: Batch,
        types: Callable[[Batch], Types],
        weights: Tensor | None,
        batch_size: int,
        steps_per_epoch: int,
        seed: tuple[int, ...],
        device: torch.device,
        processes: Processes,
    ):
        num = num_rows(data)
        self.data, self._weights = data, weights
        self.batch_size: int | None = min(batch_size, num)
        self.steps_per_epoch: int | None = steps_per_epoch
        self.whole_steps = num // self.batch_size
        self._starts = range(0, steps_per_epoch * batch_size, batch_size)
        self._types = types(data)
        self._of_these_types = all(t.dtype == self._types[name] for name, t in tensors(data).items())
        self._as_it_is = torch.arange(num) if self.batch_size == num else None
        self._seed, self._processes, self._feed = seed, processes, feed(data, device)

    @property
    def description(self) -> Any:
        data = fingerprint(self.data)
        return data if self._weights is None else data | {"weights": fingerprint(self._weights)}

    def described(self) -> Described:
        return described("data", self.data) | described("weights", self._weights)

    def minibatches(self, epoch: int, done: int) -> Iterator[Minibatch]:
        order = self._order(epoch).to(next(iter(tensors(self.data).values())).device)
        pieces = [order[start : start + self._starts.step] for start in self._starts]
        for index, following in itertools.pairwise([*pieces[done:], order[:0]]):
            own = self._processes.share(index)
            data = self._feed(own, self._processes.share(following))
            if not self._of_these_types:
                data = converted(data, self._types)
            weights = None if self._weights is None else self._weights[own.to(self._weights.device)]
            yield Minibatch(data, own, len(index), weights)

    def _order(self, epoch: int) -> Tensor:
        if self._as_it_is is not None:
            return self._as_it_is
        generator = torch.Generator().manual_seed(derived_seed(*self._seed, epoch))
        return torch.randperm(num_rows(self.data), generator=generator)


class Stream:
    """Batches from an iterable, which is read anew in each epoch by `iter()`; their order is its own.

    What it draws from torch's generators (the order of a shuffling `DataLoader`, say) is decided by the seed, the epoch
    and the batch's place in it, so that the batches done may be skipped to go on.

    `start` comes first: it reads and checks the first batch.

    Args:
        batches: the iterable.
        steps_per_epoch: its length, where it has one.
        types: those that the rows of a batch are converted to.
        check: called with each batch of the first epoch, and its place; refuses what cannot be trained on.
        seed: of what it draws.
        device: where the batches go.
        processes: each takes its share of each batch; the iterable is the same in all.
    """

    batch_size: int | None = None
    whole_steps = 0
    agreed = False

    def __init__(
        self,
        batches: Iterable[Any],
        steps_per_epoch: int | None,
        types: Callable[[Batch], Types],
        check: Callable[[Batch, int], None],
        seed: tuple[int, ...],
        device: torch.device,
        processes: Processes,
    ):
        self._batches, self._types, self._check, self._seed = batches, types, check, seed
        self._device, self._processes = device, processes
        self.steps_per_epoch = steps_per_epoch

    @property
    def description(self) -> Any:
        return f"batches of a {type(self._batches).__name__}"

    def described(self) -> Described:
        first: Described = {} if self._first is None else described("first batch of data", self._first)
        return {"data": self.description, "steps per epoch": str(self.steps_per_epoch)} | first

    def start(self) -> None:
        """Reads the first batch, before anything is changed."""
        self._first_iterator = self._begin(0)
        self._first = self._next(self._first_iterator, 0, 0)

    def minibatches(self, epoch: int, done: int) -> Iterator[Minibatch]:
        iterator = self._begin(epoch) if epoch else self._first_iterator
        if epoch and iterator is self._batches:
            raise ValueError(
                f"data: found a {type(iterator).__name__}, which can be read once only, at epoch {epoch + 1}, expected "
                "an iterable that starts anew; pass a DataLoader, or an object whose __iter__ makes a new iterator, or "
                "epochs=1"
            )
        for place in itertools.count():
            whole = self._next(iterator, epoch, place) if epoch or place else self._first
            if whole is None:
                break
            if place >= done:
                index = self._processes.share(torch.arange(num_rows(whole), device=self._device))
                several = self._processes.size > 1
                data = converted(rows(whole, index) if several else whole, self._types(whole))
                yield Minibatch(data, index, num_rows(whole), whole=whole if several else None)
        if place == 0 or place < done:
            raise ValueError(
                f"data: found {place} batches at epoch {epoch + 1}, expected at least {max(1, done)}; is the "
                "iterable empty, or another one than that of the run to go on with?"
            )

    def _begin(self, epoch: int) -> Iterator[Any]:
        with self._randomness(epoch):
            return iter(self._batches)

    def _next(self, iterator: Iterator[Any], epoch: int, place: int) -> Batch | None:
        """The next batch, whole; None at the end."""
        with self._randomness(epoch, place):
            raw = next(iterator, self)
        if raw is self:
            return None
        if isinstance(raw, list | tuple) and len(raw) == 1:
            (raw,) = raw  # as a DataLoader gives a TensorDataset's only tensor
        whole = map_batch(lambda t: t.to(self._device, copy=True), as_batch(raw))
        if epoch == 0:
            self._check(whole, place)
        return whole

    def _randomness(self, *place: int) -> Any:
        return own_randomness((*self._seed, *place), self._device)


def placed(data: Batch, device: torch.device) -> Batch:
    """The data on the device, if that leaves it enough room; else on the host."""
    if device.type == "cuda":
        needed = sum(t.numel() * t.element_size() for t in tensors(data).values())
        if needed > ROOM * torch.cuda.mem_get_info(device)[0]:
            device = torch.device("cpu")
    return map_batch(lambda t: t.to(device), data)


def feed(data: Batch, device: torch.device) -> Feed:
    """The function that gives each step its data points, wherever `placed` put them."""
    if {t.device for t in tensors(data).values()} == {device}:
        return lambda index, following: map_batch(lambda t: t.index_select(0, index), data)
    return Ahead(data, device)


class Ahead:
    """A feed that fetches the next step's data points while this step is taken."""

    def __init__(self, data: Batch, device: torch.device):
        self._data, self._device = data, device
        self._streams = torch.get_device_module(device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else torch.cpu.Stream()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[Tensor, Future[Batch]] | None = None

    def __call__(self, index: Tensor, following: Tensor) -> Batch:
        if self._next is None or not torch.equal(self._next[0], index):
            self._next = index, self._pool.submit(self._fetch, index)
        batch = self._next[1].result()
        now = self._streams.current_stream(self._device)
        now.wait_stream(self._stream)
        for t in tensors(batch).values():
            if t.is_cuda:
                t.record_stream(now)  # from the other stream, which must not reuse its memory before this one is done
        self._next = (following, self._pool.submit(self._fetch, following)) if len(following) else None
        return batch

    def _fetch(self, index: Tensor) -> Batch:
        with self._streams.stream(self._stream):
            return map_batch(lambda t: self._copied(t.index_select(0, index)), self._data)

    def _copied(self, t: Tensor) -> Tensor:
        pinned = t.pin_memory() if self._device.type == "cuda" else t
        return pinned.to(self._device, non_blocking=True)
