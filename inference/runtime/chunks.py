"""Measuring a data set in bounded memory: chunks of data points, and of particles within them.

A chunk holds few data points with many particles each, because encoders see a data point once per chunk.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pyro
import torch
from torch import Tensor

from ppvae.batches import Batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.inference.runtime.descriptions import described
from ppvae.inference.runtime.distributed import processes
from ppvae.inference.runtime.element_count import ElementCount
from ppvae.inference.runtime.isolation import derived_seed
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.progress import progress_bar
from ppvae.row_chunks import joined
from ppvae.threads import turn

CPU_ELEMENTS, GPU_ELEMENTS = 22_000_000, 4_000_000_000
"""Elements of all tensors made for one chunk. On a CPU, more would overflow the caches and slow the allocator."""

LEAST_POINTS = 10
"""The fewest data points in a chunk, so that they share the work done once per chunk."""

MORE = 0.25
"""The share by which chunks may be larger than they should, for the sake of the last one."""


class Kept(Protocol):
    """A store for the results of finished chunks."""

    def load(self) -> dict[str, Tensor]: ...
    def save(self, found: dict[str, Tensor]) -> None: ...


Measure = Callable[[Batch, int, int], dict[str, Tensor]]
"""`(B data points, K, how many of the particles at once) -> named results, each [B]`."""


@contextmanager
def evaluating(pair: Pair, seed: int | None) -> Iterator[None]:
    """Evaluation mode without gradients and argument checks; with a seed, its own generators. All is undone afterwards.

    Each of several processes draws different noise.
    """
    generators = torch.random.fork_rng(range(torch.cuda.device_count()), enabled=seed is not None)
    with turn("measuring"), mode(pair, training=False), generators, torch.no_grad(), pyro.validation_enabled(False):
        if seed is not None:
            torch.manual_seed(derived_seed(seed, rank) if (rank := processes().rank) else seed)
        yield


def mean_with_error(drawn: Tensor) -> dict[str, Tensor]:
    """Of K draws, `[K, B]`: `estimate` and `std_error`, `[B]`; the latter is NaN for one draw."""
    return {"estimate": drawn.mean(0), "std_error": (drawn.var(0, correction=0) / (len(drawn) - 1)).sqrt()}


def sizes(total: int, at_once: int) -> Iterator[int]:
    """`total` split into the fewest pieces of at most `at_once`, of nearly equal size."""
    num_pieces = math.ceil(total / at_once)
    for i in range(num_pieces):
        yield total // num_pieces + (i < total % num_pieces)


def over_data(
    pair: Pair,
    batch: Batch,
    num_particles: int,
    measure: Measure,
    title: str | None,
    probe: Measure | None = None,
    kept: Kept | None = None,
) -> dict[str, Tensor]:
    """`measure` over all data points, shared among the processes that measure together; each gets all the results.

    Chunks are sized by what a data point costs `measure`, or `probe` if given. With `kept`, this process's results are
    saved after each chunk, and those saved before are not measured again. Where the guide takes its own rows only, the
    first process measures them all at once.
    """
    group = processes()
    index = torch.arange(num_rows(batch))
    own = group.share(index) if pair.own_rows is None else index[: 0 if group.rank else None]
    found = None
    with group.together(lambda: described("data", batch), busy=True):
        if len(own):
            points = rows(batch, slice(int(own[0]), int(own[-1]) + 1))
            budget = chunk_rows(pair, points, probe or measure, CPU_ELEMENTS, GPU_ELEMENTS)
            found = _in_chunks(pair, points, num_particles, measure, budget, title if group.rank == 0 else None, kept)
    parts = [part for part in group.gather(found) if part is not None]
    return _concatenated(parts)


def _in_chunks(
    pair: Pair,
    batch: Batch,
    num_particles: int,
    measure: Measure,
    budget: int,
    title: str | None,
    kept: Kept | None,
) -> dict[str, Tensor]:
    """Measures some `budget` rows at a time; a chunk that runs out of memory is halved and tried again.

    All chunks are of nearly one size, as a program is for one size, and a small chunk takes hardly less time.
    """
    before = kept.load() if kept else {}
    parts = [before] if before else []
    start, end = len(next(iter(before.values()))) if before else 0, num_rows(batch)
    least = LEAST_POINTS
    with progress_bar(total=end, desc=title, unit="point", shown=title is not None, delay=1, leave=False) as bar:
        while start < end:
            size = max(least, budget // num_particles)
            num_chunks = max(1, math.ceil((end - start) / size - MORE))
            num_points = math.ceil((end - start) / num_chunks) if pair.own_rows is None else end
            at_once = min(num_particles, max(1, budget // num_points))
            try:
                piece = to_pair(rows(batch, slice(start, start + num_points)), pair)
                found = measure(piece, num_particles, at_once)
            except (RuntimeError, MemoryError) as error:
                smallest = 1 if pair.own_rows is None else end
                if num_points * at_once == smallest or not _out_of_memory(error):
                    raise
                budget, least = num_points * at_once // 2, max(1, least // 2)
                continue
            parts.append({name: t.cpu() for name, t in found.items()})
            start += num_points
            bar.update(num_points)
            if kept:
                kept.save(_concatenated(parts))
    return _concatenated(parts)


def _concatenated(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return joined(parts, [len(next(iter(part.values()))) for part in parts])


def chunk_rows(pair: Pair, batch: Batch, measure: Measure, cpu_elements: int, gpu_elements: int) -> int:
    """How many rows (particles times data points) a chunk may hold, given the tensors made for one row."""
    two_rows = rows(batch, torch.zeros(2, dtype=torch.long))
    counts = []
    for num in (1, 2):
        points, num_particles = (rows(two_rows, slice(num)), 1) if pair.own_rows is None else (batch, num)
        with ElementCount() as counter:
            found = measure(to_pair(points, pair), num_particles, num_particles)
        counts.append(counter.total)
    one_more = counts[1] - counts[0]
    if pair.own_rows is not None:  # a particle of all rows; what takes no more particles than one has its whole cost
        one_more = (one_more or counts[0]) // num_rows(batch)
    on_gpu = any(t.device.type == "cuda" for t in found.values())
    return max(1, (gpu_elements if on_gpu else cpu_elements) // max(1, one_more))


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    cpu = "not enough memory" in text or "can't allocate memory" in text
    return cpu or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
