"""The data points of each step: taken from the device if the data fit there, else fetched ahead of the step.

Data that would take most of a GPU's free memory stay on the host. While the GPU takes a step, the data points of the
next one are gathered in pinned memory and copied on a stream of their own.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import torch
from torch import Tensor

from ppvae.batches import Batch, map_batch, tensors

ROOM = 0.5
"""The share of a GPU's free memory that data may take; the rest is for the steps."""

Feed: TypeAlias = Callable[[Tensor, Tensor], Batch]
"""`(index of a step's data points, index of the next step's or none) -> the step's data points, on the device`."""


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
