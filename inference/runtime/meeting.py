"""Where the processes of a job meet: each tells what it is about to do, and none goes on unless all tell the same.

They meet in the store of torch's process group, not by an exchange of tensors: whoever waits for a process that does
something else, or has ended, finds out and says so.
"""

import atexit
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from multiprocessing.util import Finalize
from typing import Any, NoReturn

import torch.distributed as dist

from ppvae.inference.runtime.descriptions import Described
from ppvae.internals import default_store
from ppvae.threads import outermost

logger = logging.getLogger("ppvae")

PATIENCE = timedelta(seconds=120)
"""How long a process waits for the others, unless the process group was made with a time-out of its own."""

DEFAULTS = (timedelta(minutes=30), timedelta(minutes=10))
"""Torch's time-outs of process groups, of gloo and of NCCL."""

UNEASY = 10.0
"""Seconds after which a process that waits says whom it waits for."""

ROUNDING = 1e-3
"""The relative difference that numbers computed in two processes may have."""


KNOWN = "_known_to_all"
"""The attribute of an error that the other processes know of."""


class _Meetings:
    """The meetings of this process: how many there were, the same number in all, and what it left in the store."""

    number = 0
    kept: list[str] = []  # noqa: RUF012 (one for the process)
    announced = False


Told = dict[str, Any]
"""What one process tells: `call`, `settings`, and its `error` if it has failed."""


class ProcessesError(RuntimeError):
    """The processes of a job do not work together: one has failed, has ended, or does something else."""


def meet(rank: int, size: int, settings: Described, *, busy: bool = False, store: Any = None) -> None:
    """Waits for the other processes, and returns if all come in the same call, with the same settings.

    Args:
        rank: of this process.
        size: how many there are.
        settings: all that must be the same.
        busy: whether they come from work that may take one longer than another.
        store: where to meet; by default that of the process group.

    Raises:
        ValueError: settings differ; all processes raise it, and it names them.
        ProcessesError: another process failed, has ended, does something else, or has not come in time.
    """
    store, call = store or default_store(), outermost()
    _announce_end(rank)
    key = f"ppvae/{_Meetings.number}"
    own = f"{key}/{rank}"
    store.set(own, json.dumps({"call": call, "settings": settings}))
    _Meetings.kept.append(own)
    try:
        told = _all_told(store, key, size, call, busy)
    except BaseException:  # it may be tried again
        store.delete_key(_Meetings.kept.pop())
        raise
    _Meetings.number += 1
    if failed := {r: each["error"] for r, each in told.items() if "error" in each}:
        refuse_failure(call, failed)
    while len(_Meetings.kept) > 1:  # all have come to this meeting, and so have read what was told at those before
        store.delete_key(_Meetings.kept.pop(0))
    calls = [told[r]["call"] for r in range(size)]
    if len(set(calls)) > 1:
        raise _known(
            ProcessesError(
                f"{call}: found {_by_process(calls)}, expected the same in all, as they work together; make the same "
                "calls in all processes, in the same order"
            )
        )
    refuse_differences(call, [told[r]["settings"] for r in range(size)])


def fail(rank: int, error: Exception) -> None:
    """Tells the other processes, who come to the next meeting or wait there, of an error that they do not know."""
    if getattr(error, KNOWN, False):
        return
    _known(error)
    own = f"ppvae/{_Meetings.number}/{rank}"
    said = f"{type(error).__name__}: {error}"
    default_store().set(own, json.dumps({"call": outermost(), "settings": {}, "error": said[:1000]}))
    _Meetings.kept.append(own)
    _Meetings.number += 1


def refuse_failure(call: str, errors: Mapping[int, str]) -> NoReturn:
    """Refuses to go on without the processes that have failed; their errors are given by rank."""
    other, error = next(iter(errors.items()))
    raise _known(
        ProcessesError(f"{call}: found an error in process {other} ({error}), expected none in any; mend that one")
    )


def refuse_differences(call: str, settings: Sequence[Mapping[str, str | float]]) -> None:
    """Refuses settings, one for each process, that differ."""
    names = list(dict.fromkeys(name for each in settings for name in each))
    unlike = [name for name in names if not _alike([each.get(name, "none") for each in settings])]
    if unlike:
        listed = [f"{name}: found {_by_process([each.get(name, 'none') for each in settings])}" for name in unlike[:4]]
        more = [f"and {len(unlike) - 4} more"] if len(unlike) > 4 else []
        raise _known(
            ValueError(
                f"{call}: {'; '.join(listed + more)}, expected the same in all processes, as they share the work; seed "
                "what makes data and pairs, and give all the same settings"
            )
        )


def _known(error: Exception) -> Exception:
    """An error that the other processes know of."""
    setattr(error, KNOWN, True)
    return error


def _alike(values: Sequence[str | float]) -> bool:
    first = values[0]
    if isinstance(first, float):
        return all(isinstance(v, float) and _close(v, first) for v in values)
    return all(v == first for v in values)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING) or (math.isnan(a) and math.isnan(b))


def _by_process(values: Sequence[str | float]) -> str:
    """`0.1 in process 1 and 0.2 in process 0`."""
    ranks: dict[str | float, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    return " and ".join(f"{value} in {numbered(which)}" for value, which in reversed(ranks.items()))


def numbered(ranks: Sequence[int]) -> str:
    """`process 1`, or `processes 1, 2`."""
    return f"process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _all_told(store: Any, key: str, size: int, call: str, busy: bool) -> dict[int, Told]:
    """What the processes tell, by rank, once all have come, or one tells that it has failed."""
    start, pause, told = time.monotonic(), 1e-4, dict[int, Told]()
    limit = store.timeout if busy or store.timeout not in DEFAULTS else PATIENCE
    said = False
    while True:
        try:
            ended = [r for r in range(size) if store.check([f"ppvae/ended/{r}"])]  # first: it may have told before
            told |= {
                r: json.loads(store.get(f"{key}/{r}"))
                for r in range(size)
                if r not in told and store.check([f"{key}/{r}"])
            }
            missing = [r for r in range(size) if r not in told]
        except RuntimeError as error:
            raise ProcessesError(
                f"{call}: found the store of the process group closed ({error}), expected it to last; has process 0 "
                "ended? Its own message says why"
            ) from error
        if not missing or any("error" in each for each in told.values()):
            return told
        ended, waited = [r for r in ended if r in missing], time.monotonic() - start
        if ended or waited > limit.total_seconds():
            why = f"{numbered(ended)} ended" if ended else f"no word from {numbered(missing)} in {waited:.0f} s"
            raise ProcessesError(
                f"{call}: found {why}, expected all {size} processes to come to the same call, as they work together; "
                "call it in all of them, or with distributed=False in this one. To wait longer, make the group with "
                "torch.distributed.init_process_group(timeout=...)"
            )
        if waited > UNEASY and not said and not busy:
            logger.warning("%s: waiting for %s", call, numbered(missing))
            said = True
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _announce_end(rank: int) -> None:
    """Lets this process tell the others when it ends."""

    def tell() -> None:
        if dist.is_initialized():
            try:
                default_store().set(f"ppvae/ended/{rank}", "")
            except RuntimeError:
                logger.debug("nobody is left to be told that process %d ends", rank)

    if not _Meetings.announced:
        _Meetings.announced = True
        atexit.register(tell)
        Finalize(None, tell, exitpriority=0)  # of a process that `multiprocessing` has started
