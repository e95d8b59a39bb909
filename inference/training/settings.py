"""The settings of training that few runs need, in small groups: each is declared, checked and explained only here."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ppvae.refusals import at_least_one


@dataclass(frozen=True)
class StepOptions:
    """How a step of training is taken.

    Args:
        clip_norm: gradients whose norm, over all parameters together, is greater are scaled down to this norm.
        ema: keep an exponential moving average of the parameters with this decay, in (0, 1), such as 0.999; after t
            steps the decay is `(1 + t) / (10 + t)` if that is less.
        autocast: run the networks (the modules that return tensors) under `torch.autocast` in this dtype,
            `torch.bfloat16`; log probabilities stay in float32. Faster where the processor multiplies bfloat16.
        distributed: share each batch among the processes of torch's process group. "auto": where there is one, or
            `torchrun` has started this script; all processes must have the same data and settings, and agree on them
            first. The process that has a data point draws the noise for it.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from ppvae.inference.training.fitting import fit
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.zeros(200, 5)
        >>> fit(pair, x, epochs=1, options=StepOptions(clip_norm=10.0, ema=0.999), progress=False).steps
        2
    """

    clip_norm: float | None = None
    ema: float | None = None
    autocast: torch.dtype | None = None
    distributed: bool | str = "auto"

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not (_is_number(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm: found {self.clip_norm!r}, expected more than 0, or None not to clip")
        if self.ema is not None and not (_is_number(self.ema) and 0 < self.ema < 1):
            raise ValueError(f"ema: found {self.ema!r}, expected a decay between 0 and 1, such as 0.999, or None")
        if self.autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast: found {self.autocast}, expected torch.bfloat16 or None; float16 would need gradient scaling"
            )
        if self.distributed not in ("auto", True, False):
            raise ValueError(f"distributed: found {self.distributed!r}, expected 'auto', True or False")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out data, whose bound is computed after each epoch, and what `fit` does with it.

    The data are measured as they are, untransformed, with the same draws each time. Where `StepOptions` asks for an
    average of the parameters, the bound is the average's.

    Args:
        data: in the form of the training data.
        patience: epochs without a better bound after which to stop.
        keep_best: whether the pair ends as it was after the epoch with the best bound.

    Raises:
        ValueError: patience below one.

    Example:
        >>> from ppvae.inference.training.fitting import fit
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.zeros(200, 5)
        >>> run = fit(pair, x[:150], epochs=2, held_out=HeldOut(x[150:], keep_best=True), progress=False)
        >>> len(run.history["held_out"])
        2
    """

    data: Any = field(repr=False)
    patience: int | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        if self.patience is not None:
            at_least_one("patience", self.patience)


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps a run of `fit`, written after each epoch, on Ctrl-C and on SIGTERM.

    Args:
        path: of the file; an old one is replaced.
        every: steps after which to write it within an epoch, too.

    Raises:
        TypeError: the path is not a path.
        ValueError: `every` below one.

    Example:
        >>> Checkpoint("run.safetensors", every=1000).every
        1000
    """

    path: str | Path
    every: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path: found {self.path!r}, expected a file's path, such as 'run.safetensors'")
        if self.every is not None:
            at_least_one("every", self.every)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
