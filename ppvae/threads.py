"""One thread at a time: Pyro's handlers and parameters, and torch's generators, are the whole process's.

A public function that uses them is `exclusive`: calls from several threads run one after another, each with the result
that it has alone. A thread may call such functions within one, as a callback of `fit` does.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch

from ppvae.internals import handlers_kept

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = 10.0
"""Seconds after which a callback that waits for a thread is taken to wait for one that waits for the callback."""

INTERVAL = 0.5
"""Seconds after which a thread that waits for its turn looks at the one whose turn it is."""

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""The kinds of device on which `torch.autocast` is looked for."""

WAITING = {threading.__file__, os.path.join(os.path.dirname(threading.__file__), "selectors.py")}
"""The files in which a thread is that waits for another one."""


@dataclass
class _Turn:
    """Whose turn it is.

    Attributes:
        lock: which that thread holds, once for each call within another.
        holder: that thread.
        calls: those that it is in, the outermost first.
        lent: how many of them there were when the innermost one called a function of the user's; 0 if it did not.
    """

    lock: Any = field(default_factory=threading.RLock)
    holder: threading.Thread | None = None
    calls: list[str] = field(default_factory=list)
    lent: int = 0


_turn = _Turn()


def _renew() -> None:
    """A forked process has one thread, and none that would give up the turn of another."""
    global _turn
    if _turn.holder is not threading.current_thread():
        _turn = _Turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """A function that one thread at a time is in; Pyro's handlers are those of before when it is left."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with turn(function.__qualname__):
            return function(*args, **kwargs)

    return alone


def undisturbed(function: Callable[P, R]) -> Callable[P, R]:
    """An `exclusive` function that autograd works in, whatever `torch.no_grad` or `inference_mode` is around it."""
    return exclusive(torch.inference_mode(False)(function))


@contextmanager
def turn(call: str) -> Iterator[None]:
    """Waits until no other thread is in such a block, and then is in it, in full precision.

    Raises:
        RuntimeError: another thread is, and never leaves it, as it waits for this one.
    """
    own = _turn
    if not own.lock.acquire(blocking=False):
        _wait(call)
    own.holder = threading.current_thread()
    own.calls.append(call)
    try:
        with handlers_kept(), _full_precision():
            yield
    finally:
        own.calls.pop()
        if not own.calls:
            own.holder = None
        own.lock.release()


@contextmanager
def _full_precision() -> Iterator[None]:
    """Leaves a `torch.autocast` of the caller's, in which log probabilities would lose their digits."""
    with ExitStack() as stack:
        for kind in filter(torch.is_autocast_enabled, AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def outermost() -> str:
    """The call that this thread is in, the outermost if it is in several; empty if it is in none."""
    return _turn.calls[0].removesuffix(".__init__") if _turn.holder is threading.current_thread() else ""


@contextmanager
def users_own() -> Iterator[None]:
    """Around a call of a user's function, which may wait for another thread."""
    own, before = _turn, _turn.lent
    own.lent = len(own.calls)
    try:
        yield
    finally:
        own.lent = before


def _wait(call: str) -> None:
    own, since = _turn, None
    while not own.lock.acquire(timeout=INTERVAL):
        holder = own.holder
        if not (holder and own.lent == len(own.calls) > 0 and _waits(holder)):
            since = None
            continue
        since = since or time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise RuntimeError(
                f"found `{call}` in thread '{threading.current_thread().name}' while thread '{holder.name}' is in a "
                f"callback of `{own.calls[-1]}` and waits for another thread, expected the callback to call it itself, "
                "as one thread at a time can; call it in the callback's own thread, or do not wait there"
            )


def _waits(thread: threading.Thread) -> bool:
    """Whether a thread waits for another one."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_filename in WAITING
