"""Processes that train or measure together, and what they exchange.

`torchrun` starts them with one script. They have the same data, the same settings and, at every step, the same
parameters, which they see to before they start; they divide the data points of a batch, or of a measurement, among
themselves.
"""

import atexit
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ppvae.inference.runtime.descriptions import Described, versions
from ppvae.inference.runtime.meeting import ProcessesError, fail, meet

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """A group of processes, one of which is this one; alone, every exchange returns what it is given.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of some rows, in order; it may be empty if there are fewer rows than processes."""
        return rows.tensor_split(self.size)[self.rank] if self.size > 1 else rows

    def agree(self, settings: Callable[[], Described] = dict, *, busy: bool = False) -> None:
        """Returns once all processes have come here in the same call, with the same settings.

        Args:
            settings: gives them; alone it is not called.
            busy: whether they come from work that may take one longer than another.

        Raises:
            ValueError: they differ; all processes raise it, and it names them.
            ProcessesError: another process failed, has ended, does something else, or does not come.
        """
        if self.size > 1:
            meet(self.rank, self.size, settings() | versions(), busy=busy)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """An error in the block is told to the other processes."""
        try:
            yield
        except Exception as error:
            if self.size > 1:
                fail(self.rank, error)
            raise

    @contextmanager
    def together(self, settings: Callable[[], Described] = dict, *, busy: bool = False) -> Iterator[None]:
        """All processes do what is in the block, and agree at its end, as `agree`; an error of one is told to all."""
        with self.telling():
            yield
        self.agree(settings, busy=busy)

    def sum(self, t: Tensor) -> Tensor:
        """The sum of the processes' tensors, all of one shape; bit for bit the same in each."""
        if self.size > 1:
            t = t.clone()
            with self._explained():
                dist.all_reduce(t)
        return t

    def gather(self, thing: T) -> list[T]:
        """The objects of all processes, by rank."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        with self._explained():
            dist.all_gather_object(found, thing)
        return found

    def first(self, function: Callable[[], T]) -> T:
        """What a function returns in process 0, the only one that calls it; all raise its error."""
        if self.size == 1:
            return function()
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = function()
            except Exception as error:
                found[1] = error if _can_be_sent(error) else RuntimeError(f"{type(error).__name__}: {error}")
        with self._explained():
            dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of process 0."""
        if self.size > 1:
            for t in tensors:
                with self._explained():
                    dist.broadcast(t.detach(), src=0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProcessesError(
                f"found an exchange among {self.size} processes broken off ({error}), expected all to take part; one "
                "has ended, or does something else: its own message says why"
            ) from error


ALONE = Processes()

_measuring: ContextVar[Processes] = ContextVar("measuring", default=ALONE)


def processes() -> Processes:
    """Those that share the measurement that is under way; this one alone if it is not to be shared."""
    return _measuring.get()


@contextmanager
def shared(group: Processes) -> Iterator[None]:
    """For the block, measurements are shared among these processes."""
    token = _measuring.set(group)
    try:
        yield
    finally:
        _measuring.reset(token)


def group_for(distributed: bool | str, device: torch.device) -> Processes:
    """The group for a `distributed` of "auto", True or False, made if `torchrun` asks for one and there is none yet.

    Raises:
        ValueError: True, where there is neither a group nor `torchrun`'s environment.
    """
    if not distributed:
        return ALONE
    if dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched():
        _join("nccl" if device.type == "cuda" else "gloo")
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    if distributed is True:
        raise ValueError(
            "distributed: found True without a process group, expected to be started by torchrun; "
            "run `torchrun --nproc-per-node=2 script.py`, or leave it out"
        )
    return ALONE


def _join(backend: str) -> None:
    """Makes the group that `torchrun` asks for, once all processes want it."""
    store, rank, size = next(dist.rendezvous("env://"))
    if backend == "gloo":  # its threads may abort a process that ends before they do
        atexit.register(_leave)
    meet(rank, size, versions(), store=store)
    dist.init_process_group(backend, store=dist.PrefixStore("ppvae", store), rank=rank, world_size=size)


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
        return True
    except Exception:  # whatever an exception of the user's own does
        return False


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
