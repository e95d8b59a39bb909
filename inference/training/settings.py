"""The settings of training that few runs need, in small groups: each is declared, checked and explained only here."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch

from ppvae.arguments import Count, Distributed, File, checked
from ppvae.batches import named_batch
from ppvae.rules import Number


@checked
@dataclass(frozen=True)
class StepOptions:
    """How a step of training is taken.

    Args:
        clip_norm: gradients whose norm, over all parameters together, is greater are scaled down to this norm.
        ema: keep an exponential moving average of the parameters with this decay, in (0, 1), such as 0.999; after t
            steps the decay is `(1 + t) / (10 + t)` if that is less.
        autocast: run the networks (the modules that return tensors) under `torch.autocast` in this dtype,
            `torch.bfloat16`; log probabilities stay in float32. Faster where the processor multiplies bfloat16. It
            holds for the steps and for held-out bounds; what a callback measures is in full precision.
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

    clip_norm: Annotated[float, Number(above=0, finite=False, said="more than 0")] | None = None
    ema: Annotated[float, Number(above=0, below=1, said="a decay between 0 and 1, such as 0.999")] | None = None
    autocast: torch.dtype | None = None
    distributed: Distributed = "auto"

    def __post_init__(self) -> None:
        if self.autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast: found {self.autocast}, expected torch.bfloat16 or None; float16 would need gradient scaling"
            )


@checked
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
        TypeError, ValueError: patience below one, or bad data (the index is named).

    Example:
        >>> from ppvae.inference.training.fitting import fit
        >>> from ppvae.models import LinearVAE
        >>> pair, x = LinearVAE(num_features=5, num_latents=2), torch.zeros(200, 5)
        >>> run = fit(pair, x[:150], epochs=2, held_out=HeldOut(x[150:], keep_best=True), progress=False)
        >>> len(run.history["held_out"])
        2
    """

    data: Any = field(repr=False)
    patience: Count | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", named_batch("held_out", self.data))


@checked
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

    path: File
    every: Count | None = None
