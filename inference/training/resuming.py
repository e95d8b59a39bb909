"""What training keeps in a file, and how it goes on from one, bit for bit.

A trainer, and a run of one, describe their settings and hand out their state; nothing here knows more about them.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_layout,
    check_same,
    glance,
    layout,
    prefixed,
    read,
    refuse_nan,
    require,
    unprefixed,
    with_nan,
    write,
)
from ppvae.inference.runtime.distributed import Processes
from ppvae.inference.runtime.isolation import can_be_set
from ppvae.inference.training.nonfinite import NonFiniteError
from ppvae.internals import tree_map


@dataclass
class State:
    """What a file keeps.

    Attributes:
        tensors: groups of tensors by name, each by names of its own.
        values: everything else, as JSON can hold it.
        source: the file that it was read from, for errors.
    """

    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]
    source: str | Path = ""


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
    """Writes a run's settings and state to a file, which replaces any old one whole or not at all.

    Raises:
        NonFiniteError: a parameter has become NaN; an old file is as it was.
        ValueError, OSError: the file cannot be written; an old one is as it was.
    """
    state = run.state()
    if (name := with_nan({name: state.tensors["pair"][name] for name in run.settings["learned"]})) is not None:
        raise NonFiniteError(
            f"found NaN in parameter '{name}' after a step, expected finite numbers; {path} was not written. Lower the "
            "learning rate, or clip gradients"
        )
    if run.processes.rank:
        return
    tensors = {key: t for name, group in state.tensors.items() for key, t in prefixed(name, group).items()}
    groups = {name: layout(group) for name, group in state.tensors.items()}
    write(path, tensors, {"settings": run.settings, "groups": groups, **state.values})


def restore(run: Resumable, path: str | Path) -> None:
    """Gives a run the state that `store` wrote.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged, foreign, or from another run; nothing has been changed then.
    """
    run.set_state(run.processes.first(lambda: _read(path, run.settings)))


def setting_in(path: str | Path, name: str) -> Any:
    """A setting of the run that wrote a file, which is not read whole; None if it has none of that name.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is truncated or foreign.
    """
    about = glance(path)
    settings = about.get("settings") if isinstance(about, dict) else None
    return settings.get(name) if isinstance(settings, dict) else None


def _read(path: str | Path, settings: dict[str, Any]) -> State:
    """The state in a file, which has the same settings and all the tensors that were written to it."""
    tensors, about = read(path)
    if "settings" not in about:  # a file of parameters alone: say what it lacks
        check_same(path, {}, settings)
    require(path, about, {"settings": dict, "groups": dict})
    check_same(path, about["settings"], settings)
    groups = {name: unprefixed(name, tensors) for name in about["groups"]}
    for name, group in groups.items():
        check_layout(path, name, group, about["groups"][name])
    return State(groups, about, path)


def check_trainer_state(
    state: State, now: State, learned: Collection[str], optimizer: Optimizer, device: torch.device
) -> None:
    """Refuses a state that a trainer cannot go on from.

    Args:
        state: from a file.
        now: the trainer's own.
        learned: names of the parameters that are learned.
        optimizer: the trainer's.
        device: the trainer's.
    """
    path, values, tensors = state.source, state.values, state.tensors
    kinds = {"steps": int, "compiled_size": int | None, "processes": int, "optimizer": dict, "example": dict | None}
    require(path, values, kinds)
    require(path, tensors, dict.fromkeys(("pair", "unsaved", "average", "optimizer", "example"), dict))
    for name in ("pair", "unsaved", "average"):
        check_layout(path, name, tensors[name], layout(now.tensors[name]))
    refuse_nan(path, {name: tensors["pair"][name] for name in learned})
    refuse_nan(path, tensors["average"])
    require(path, values["optimizer"], {"slots": dict, "groups": list})
    numbers = {str(i) for group in optimizer.state_dict()["param_groups"] for i in group["params"]}
    owners = {key.split(".")[0] for key in tensors["optimizer"] | values["optimizer"]["slots"]}
    if owners - numbers or len(values["optimizer"]["groups"]) != len(optimizer.param_groups):
        raise CheckpointError(f"{path}: found the state of an optimizer of other parameters, expected {len(numbers)}")
    for rank in range(values["processes"]):
        if not can_be_set(tensors.get(f"random{rank}", {}), device):
            raise CheckpointError(f"{path}: found no state of the generators of process {rank}, expected one")


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
    groups = [
        new | {name: _of_kind(new.get(name), value) for name, value in old.items()}
        for new, old in zip(current, values["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def groups_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of an optimizer's groups of parameters; of those that are tensors, the numbers."""
    return [
        tree_map(
            lambda value: value.tolist() if isinstance(value, Tensor) else value,
            {name: value for name, value in group.items() if name != "params"},
        )
        for group in optimizer.state_dict()["param_groups"]
    ]


def _of_kind(now: Any, value: Any) -> Any:
    """A setting's value, as a tensor where it is one now."""
    if isinstance(now, Tensor):
        return torch.as_tensor(value, dtype=now.dtype, device=now.device)
    if isinstance(now, list | tuple) and isinstance(value, list):
        return [_of_kind(own, each) for own, each in zip(now, value, strict=True)]
    return value


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON; what it cannot hold becomes text."""
    return json.loads(json.dumps(settings, default=str))
