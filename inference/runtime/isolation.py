"""What training changes in the process, and restores however it ends: generators, signals, denormals."""

import contextlib
import ctypes
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@contextlib.contextmanager
def own_randomness(seed: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """Seeds the generators of the CPU and of `device` for the block; the caller's streams then go on undisturbed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        yield


def seed_generators(seed: tuple[int, ...], device: torch.device) -> None:
    """Seeds the generators of the CPU and of `device`, and no others, as `torch.manual_seed` would."""
    torch.random.default_generator.manual_seed(derived_seed(*seed))
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(derived_seed(*seed))


def derived_seed(*parts: int) -> int:
    """A well-mixed 64-bit seed from non-negative integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def seeded_state(seed: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
    """The states of the generators in use on the CPU and on `device` once they are seeded; they stay as they are."""
    with own_randomness(seed, device):
        return random_state(device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators in use on the CPU and on `device`."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "device" in state:
        torch.cuda.set_rng_state(state["device"], device)


def can_be_set(state: dict[str, Tensor], device: torch.device) -> bool:
    """Whether `set_random_state` can put this back; nothing is changed."""
    places = {"cpu": torch.device("cpu")} | ({"device": device} if device.type == "cuda" else {})
    try:
        for name, place in places.items():
            torch.Generator(place).set_state(state[name])
    except (KeyError, TypeError, RuntimeError):
        return False
    return state.keys() == places.keys()


@contextlib.contextmanager
def interrupts_held(number: int = signal.SIGINT) -> Iterator[list[int]]:
    """Holds Ctrl-C, or another signal, back until the block ends, so that the block runs to its end.

    Yields a list that grows with each signal received; if it is not empty at the end, one is raised then. One that
    would end the process leaves Python by SystemExit, with the status that shells give it.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals never arrive here
        yield received
        return
    previous = signal.signal(number, lambda *_: received.append(number))
    try:
        yield received
    finally:
        signal.signal(number, previous)
        if received and previous is signal.SIG_DFL:
            raise SystemExit(128 + number)
        if received:
            signal.raise_signal(number)


@contextlib.contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Runs torch's operations on one thread, if wanted: where there is little to do, waking others takes longer."""
    number = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(number)


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flushes denormal numbers to zero on the CPU, where they make arithmetic several times slower.

    Each thread has its own setting. Torch sets that of the calling thread only; here its worker threads follow, if they
    are GNU's or LLVM's OpenMP (torch's builds for Linux).
    """
    before = sys.float_info.min / 2 == 0.0
    _flush_denormals(True)
    try:
        yield
    finally:
        _flush_denormals(before)


def _flush_denormals(on: bool) -> None:
    torch.set_flush_denormal(on)
    if (library := _openmp()) is not None:
        environment = ctypes.create_string_buffer(256)  # C's floating-point environment, fenv_t: 32 bytes or less
        library.fegetenv(environment)
        library.GOMP_parallel(library.fesetenv, environment, torch.get_num_threads(), 0)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """Torch's own library, through which OpenMP's and C's functions are found; None if they are not."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library if library.GOMP_parallel and library.fegetenv and library.fesetenv else None
    except (OSError, AttributeError):
        return None
