"""The state of a training run as a checkpoint, from which it goes on bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppvae.inference.runtime.checkpoint import (
    CheckpointError,
    check_same,
    fingerprint,
    layout,
    prefixed,
    read,
    unprefixed,
    write,
)
from ppvae.inference.runtime.isolation import random_state, seed_generators, set_random_state

COUNTERS = ("num_steps", "step", "epoch", "stopped", "seconds")


def store(run: Any, settings: dict[str, Any], path: Path) -> None:
    """Writes a run's whole state; the random generators' is that of the moment.

    All processes take part, as each has its own random generators; the first one writes.
    """
    states = run.processes.gather(random_state(run.device))
    if run.processes.rank:
        return
    optimizer = run.optimizer.state_dict()
    slots = {f"{i}.{name}": value for i, slot in optimizer["state"].items() for name, value in slot.items()}
    contents = {
        "pair": run.pair.state_dict(),
        "best": run.best,
        "optimizer": {name: value for name, value in slots.items() if isinstance(value, Tensor)},
        "average": run.update.averages,
        **{_random(rank): state for rank, state in enumerate(states)},
        "history": {name: torch.tensor(values, dtype=torch.float64) for name, values in run.history.items()},
    }
    about = {
        "processes": len(states),
        "settings": settings,
        "counters": {name: getattr(run, name) for name in COUNTERS},
        "optimizer": {name: value for name, value in slots.items() if not isinstance(value, Tensor)},
        "optimizer_groups": _without_parameters(optimizer["param_groups"]),
    }
    write(path, {key: t for prefix, group in contents.items() for key, t in prefixed(prefix, group).items()}, about)


def restore(run: Any, settings: dict[str, Any], path: Path) -> None:
    """Gives a run the state that `store` wrote, random generators included; refuses, before any change, another's."""
    tensors, about = run.processes.first(read(path) if run.processes.rank == 0 else ({}, {}))
    check_same(path, about.get("settings", {}), settings)
    counters = about["counters"]
    _check_length(run, path, counters)
    slots: dict[int, dict[str, Any]] = {}
    for key, value in (unprefixed("optimizer", tensors) | about["optimizer"]).items():
        i, name = key.split(".", 1)
        slots.setdefault(int(i), {})[name] = value
    optimizer = run.optimizer.state_dict()
    groups = [new | old for new, old in zip(optimizer["param_groups"], about["optimizer_groups"], strict=True)]
    run.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    run.pair.load_state_dict(unprefixed("pair", tensors))
    run.best = {name: t.to(run.device) for name, t in unprefixed("best", tensors).items()}
    run.history = {name: t.tolist() for name, t in unprefixed("history", tensors).items()}
    run.step, run.epoch, run.seconds = counters["step"], counters["epoch"], counters["seconds"]
    lengthened = counters["stopped"] == "completed" and run.step < run.num_steps
    run.stopped = "" if lengthened or counters["stopped"] == "interrupted" else counters["stopped"]
    for name, average in unprefixed("average", tensors).items():
        run.update.averages[name].copy_(average)
    if about["processes"] == run.processes.size:
        set_random_state(unprefixed(_random(run.processes.rank), tensors), run.device)
    else:  # how noise is shared among so many is not known from a run of others
        seed_generators((run.seed, run.step, run.processes.rank), run.device)


def _random(rank: int) -> str:
    return f"random{rank or ''}"


def _check_length(run: Any, path: Path, counters: dict[str, Any]) -> None:
    """A run may go on to another length only where its past did not depend on it."""
    done = counters["step"]
    cut_short = counters["stopped"] == "completed" and done % run.steps_per_epoch
    if run.num_steps != counters["num_steps"] and (run.schedule or cut_short or done > run.num_steps):
        raise CheckpointError(
            f"{path}: found a run of {counters['num_steps']} steps, {done} of them done, expected {run.num_steps}; "
            "another length is possible where there is no schedule, the run has not ended within an epoch, and no more "
            "is done than asked for. Give the length it was written with, or use another file"
        )


def settings_of(run: Any) -> dict[str, Any]:
    """What the parameters after a given number of steps depend on, as JSON has it."""
    settings = {
        "pair": type(run.pair).__qualname__,
        "tensors": layout(run.pair.state_dict()),
        "learned": list(run.update.parameters),
        "objective": describe(run.objective),
        "optimizer": type(run.optimizer).__qualname__,
        "optimizer_groups": dict(enumerate(_without_parameters(run.optimizer.param_groups))),
        "schedule": [run.schedule(i / 8) for i in range(9)] if run.schedule else None,
        "transform": describe(run.transform) if run.transform else None,
        "data": fingerprint(run.data),
        "held_out": fingerprint(run.held_out) if run.held_out is not None else None,
        "batch_size": run.batch_size,
        "seed": run.seed,
        "patience": run.patience,
        "keep_best": run.keep_best,
        "device": run.device.type,
        "compile": run.compile,
        "clip_norm": run.clip_norm,
        "ema": run.ema,
        "autocast": str(run.autocast),
    }
    return json.loads(json.dumps(settings, default=str))


def describe(thing: object) -> str:
    """A function's or an object's `repr`, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _without_parameters(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]
