"""Processes that train or measure together, and what they exchange.

`torchrun` starts them with one script. They have the same data and, at every step, the same parameters; they divide the
data points of a batch, or of a measurement, among themselves.
"""

import atexit
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

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

    def sum(self, t: Tensor) -> Tensor:
        """The sum of the processes' tensors, all of one shape; bit for bit the same in each."""
        if self.size > 1:
            t = t.clone()
            dist.all_reduce(t)
        return t

    def gather(self, thing: T) -> list[T]:
        """The objects of all processes, by rank."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing)
        return found

    def first(self, thing: T) -> T:
        """The object of process 0."""
        found = [thing]
        if self.size > 1:
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of process 0."""
        if self.size > 1:
            for t in tensors:
                dist.broadcast(t.detach(), src=0)


def processes() -> Processes:
    """The processes of torch's process group; this one alone if there is no group."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


def group_for(distributed: bool | str, device: torch.device) -> Processes:
    """The group for a `distributed` of "auto", True or False, made if `torchrun` asks for one and there is none yet.

    Raises:
        ValueError: True, where there is neither a group nor `torchrun`'s environment.
    """
    if distributed not in ("auto", True, False):
        raise ValueError(f"distributed: found {distributed!r}, expected 'auto', True or False")
    if not distributed:
        return Processes()
    if dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type != "cuda":  # gloo's threads may abort a process that ends before they do
            atexit.register(_leave)
    if distributed is True and not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "distributed: found True without a process group, expected to be started by torchrun; "
            "run `torchrun --nproc-per-node=2 script.py`, or leave it out"
        )
    return processes()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
