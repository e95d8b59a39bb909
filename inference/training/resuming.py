"""What training keeps in a file, and how it goes on from one, bit for bit.

A trainer, and a run of one, describe their settings and hand out their state; nothing here knows more about them.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_same,
    fingerprint,
    prefixed,
    read,
    unprefixed,
    write,
)
from ppvae.inference.runtime.distributed import Processes


@dataclass
class State:
    """What a file keeps.

    Attributes:
        tensors: groups of tensors by name, each by names of its own.
        values: everything else, as JSON can hold it.
    """

    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


class Resumable(Protocol):
    """Something that can be kept in a file and go on from it."""

    @property
    def processes(self) -> Processes:
        """Those that train together: each has a state, and the first one writes."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on besides the state, in JSON's types; a file with other settings is refused."""
        ...

    def state(self) -> State:
        """What is needed to go on; all processes call this together."""
        ...

    def set_state(self, state: State) -> None:
        """Goes on from a state of the same settings; raises CheckpointError, before any change, if it cannot."""
        ...


def store(run: Resumable, path: str | Path) -> None:
    """Writes a run's settings and state to a file, which replaces any old one whole or not at all."""
    state = run.state()
    if run.processes.rank:
        return
    tensors = {key: t for name, group in state.tensors.items() for key, t in prefixed(name, group).items()}
    about = {"settings": run.settings, "groups": list(state.tensors), **state.values}
    write(path, tensors, about | {"checksum": _checksum(tensors, about)})


def restore(run: Resumable, path: str | Path) -> None:
    """Gives a run the state that `store` wrote.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged, foreign, or from another run; nothing has been changed then.
    """
    tensors, about = run.processes.first(_undamaged(path, run.settings) if run.processes.rank == 0 else ({}, {}))
    run.set_state(State({name: unprefixed(name, tensors) for name in about["groups"]}, about))


def _undamaged(path: str | Path, settings: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The contents of an undamaged file with the same settings."""
    try:
        tensors, about = read(path)
    except (json.JSONDecodeError, KeyError) as error:
        raise _damaged(path) from error
    checksum = about.pop("checksum", None)
    if checksum is None:  # a file of parameters alone: say what it lacks
        check_same(path, {}, settings)
    if checksum != _checksum(tensors, about):
        raise _damaged(path)
    check_same(path, about["settings"], settings)
    return tensors, about


def _damaged(path: str | Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: found contents that differ from what was written, expected its checksum to hold; the file is "
        "damaged: use another file, or delete it to start afresh"
    )


def _checksum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    words = json.dumps([about, fingerprint(tensors)], sort_keys=True)
    return f"CRC-32 {zlib.crc32(words.encode()):08x}"


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state by `index of parameter.name`, as tensors and as plain values, and its groups' settings."""
    state = optimizer.state_dict()
    slots = {f"{i}.{name}": value for i, slot in state["state"].items() for name, value in slot.items()}
    tensors = {name: value for name, value in slots.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in slots.items() if not isinstance(value, Tensor)}
    return tensors, {"slots": plain, "groups": groups_of(optimizer)}


def set_optimizer_state(optimizer: Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Gives an optimizer the state that `optimizer_state` found."""
    slots: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | values["slots"]).items():
        i, name = key.split(".", 1)
        slots.setdefault(int(i), {})[name] = value
    current = optimizer.state_dict()["param_groups"]
    groups = [new | old for new, old in zip(current, values["groups"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def groups_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of an optimizer's groups of parameters."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.state_dict()["param_groups"]
    ]


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON; what it cannot hold becomes text."""
    return json.loads(json.dumps(settings, default=str))
