"""Training and evaluation mode, for a while."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """A module in training or evaluation mode for the block; each submodule's own mode afterwards.

    What a pair uses without learning it (its `unlearned` modules) is evaluated with it; in training it stays as it is.
    """
    own = list(module.modules())
    unlearned = [] if training else [used for m in own for used in getattr(m, "unlearned", ())]
    before = {m: m.training for m in [*own, *unlearned]}
    module.train(training)
    for m in unlearned:
        m.training = False
    try:
        yield
    finally:
        for m, was in before.items():
            m.training = was


@contextmanager
def settled_if_it_passes(pair: Any) -> Iterator[None]:
    """What the block's checks find out about a pair, its example and how it is run, stays only if none fails."""
    before = {name: getattr(pair, name) for name in ("example", "particles", "guide_leads")}
    kinds = copy.deepcopy(pair.checked_kinds)
    try:
        yield
    except BaseException:
        for name, value in before.items():
            setattr(pair, name, value)
        pair.checked_kinds = kinds
        raise


def buffer_places(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where modules hold their buffers: in which dictionary, and by which name."""
    return [(m._buffers, name) for m in module.modules() for name, b in m._buffers.items() if b is not None]


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Gives a module's buffers, such as running statistics, the values back that they have before the block."""
    before = [(held, name, held[name], held[name].clone()) for held, name in buffer_places(module)]
    try:
        yield
    finally:
        with torch.no_grad():
            for held, name, buffer, value in before:
                held[name] = buffer  # another may have been assigned
                buffer.copy_(value)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """For the block, no parameter of the module requires a gradient."""
    learned = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in learned:
            p.requires_grad_(False)
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
