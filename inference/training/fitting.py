"""Training a pair by stochastic gradient ascent on a bound."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch.optim import Optimizer

from ppvae.batches import Batch, as_batch, num_rows, rows
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import Objective, as_objective
from ppvae.inference.runtime.checkpoint import fingerprint
from ppvae.inference.runtime.chunks import to_pair
from ppvae.inference.runtime.distributed import Processes, group_for
from ppvae.inference.runtime.isolation import denormals_flushed, own_randomness
from ppvae.inference.training.feeding import placed
from ppvae.inference.training.loop import CHECK, STEPS, Fit, Training
from ppvae.inference.training.mixed_precision import networks_in
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.refusals import at_least_one

AUTO_COMPILE_STEPS = 10_000

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def fit(
    pair: Pair,
    data: Any,
    objective: Objective | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    optimizer: str | Callable[..., Optimizer] = "adam",
    lr: float = 1e-3,
    schedule: Callable[[float], float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    transform: Callable[[Any], Any] | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    autocast: torch.dtype | None = None,
    compile: bool | str = "auto",
    distributed: bool | str = "auto",
    held_out: Any = None,
    patience: int | None = None,
    keep_best: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callable[[Fit], None]] = (),
) -> Fit:
    """Trains a pair, in place, by stochastic gradient ascent on a bound.

    `theta <- theta + lr * schedule(step / steps) * direction(gradient of the surrogate on a minibatch)`. Each epoch
    goes once through the data in a fresh order; its last batch may be smaller and is run as it is.

    The data are checked whole before the first step. A non-finite step is not applied and ends training. Ctrl-C ends
    it too, between two steps, and the result says so. Random numbers come from generators seeded by `seed`; on a CPU
    denormals are flushed; the caller's generators, denormal setting and the pair's mode are put back at the end.
    On a CPU the same seed, and resuming, give the same parameters bit for bit, for the same number of threads; on a
    GPU as far as its kernels are deterministic.

    What it maximizes is a bound: a higher one can mean a better model or a tighter guide. `ppvae.gap` tells which.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); Kingma & Ba 2015 (arXiv:1412.6980) for Adam.

    Args:
        pair: whose parameters are learned, those with `requires_grad`.
        data: N data points: a tensor or array, or a tuple or dict of them sharing dimension 0.
        objective: what to maximize; `ELBO()` if not given.
        epochs: how many times to go through the data. Either this or `steps`.
        steps: how many minibatches to take.
        batch_size: B, data points per step.
        optimizer: "adam", "adamw" or "sgd"; or a function called with the list of parameters and `lr=lr`, such as
            `functools.partial(torch.optim.AdamW, weight_decay=1e-2)`.
        lr: learning rate.
        schedule: from the fraction of steps done, in [0, 1), to a factor on the learning rate. Decay to a tenth is
            `lambda done: 0.1**done`.
        seed: of minibatches and all other draws; not negative.
        device: where to train; pair and data are moved there, and the pair stays. Not given: where the pair is. Data
            that would take over half of a GPU's free memory stay on the host, and are fetched ahead of each step.
        transform: applied to each minibatch of `data`; `torch.bernoulli` makes dynamic binarization.
        clip_norm: gradients whose norm, of all together, is greater are scaled down to it.
        ema: keep an exponential moving average of the parameters with this decay, in (0, 1), such as 0.999; after t
            steps it is `(1 + t) / (10 + t)` where that is less. The held-out bound is the average's, and the pair ends
            as it.
        autocast: run the networks (the modules that return tensors) under `torch.autocast` in this type,
            `torch.bfloat16`; log probabilities stay in float32. Faster where the processor multiplies bfloat16.
        compile: run a step as one compiled program, the same estimator with the same noise several times faster, after
            some seconds of compiling. "auto": where there are at least 10,000 steps, on a CPU. What Python decides in
            the model or the guide (a branch, a loop) is decided once, when the step is traced. What cannot be compiled
            goes on uncompiled, with a warning that says why. The first step, and smaller batches, are not compiled.
        distributed: share each batch among the processes of torch's process group. "auto": where there is one, or
            `torchrun` has started this script; all of them must have the same data. What is drawn for a data point
            is drawn by the process that has it.
        held_out: data whose bound is computed after each epoch, as they are, with the same draws each time.
        patience: epochs without a better held-out bound after which to stop.
        keep_best: leave the pair, at the end, as it was after the epoch of the best held-out bound.
        checkpoint: a file to keep the training in, written after each epoch and on Ctrl-C; an old one is replaced.
        checkpoint_every: steps after which to write it within an epoch too.
        resume: go on from `checkpoint` if it exists. A completed run without a schedule may be given more epochs.
        progress: show a bar.
        callbacks: called after each epoch with the `Fit` so far. One that raises `StopIteration` ends training.

    Returns:
        Fit: history, why training ended, and the pair itself.

    Raises:
        ppvae.ContractError: the pair breaks the contract.
        ValueError: bad data (the index is named), a data point outside the support of the model, or an argument out
            of range.
        CheckpointError: the file to resume from is damaged, or of another run; the pair is untouched.
        NonFiniteError: a step gave NaN or infinity; the message names the site, and its `fit` holds the history.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
        >>> fit(LinearVAE(num_features=5, num_latents=2), x, epochs=3, lr=0.01, progress=False).steps
        6
    """
    _check_arguments(locals())
    objective = objective or ELBO()
    device = next(pair.parameters()).device if device is None else torch.empty(0, device=device).device  # numbered
    pair.to(device)
    group = group_for(distributed, device)
    batch = placed(as_batch(data), device)
    held_out = None if held_out is None else as_batch(held_out, device)
    num_steps = steps or math.ceil(num_rows(batch) / batch_size) * (epochs or 0)
    with denormals_flushed():
        with own_randomness((seed, CHECK), device), mode(pair, training=False), pyro.validation_enabled(True):
            _check_data(pair, "data", batch, objective, transform, batch_size)
            if held_out is not None:
                _check_data(pair, "held_out", held_out, objective, None, batch_size)
        if group.size > 1:
            _check_same_data(group, batch)
        training = Training(
            pair=pair,
            data=batch,
            objective=objective,
            optimizer=_optimizer(optimizer, pair, lr),
            num_steps=num_steps,
            batch_size=batch_size,
            seed=seed,
            device=device,
            schedule=schedule,
            transform=transform,
            held_out=held_out,
            patience=patience,
            keep_best=keep_best,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            checkpoint_every=checkpoint_every,
            callbacks=callbacks,
            compile=_long_enough(num_steps, device) if compile == "auto" else bool(compile),
            clip_norm=clip_norm,
            ema=ema,
            autocast=autocast,
            processes=group,
        )
        with (
            own_randomness((seed, STEPS, group.rank), device),
            mode(pair, training=True),
            pyro.validation_enabled(False),
            networks_in(autocast, pair, to_pair(rows(batch, slice(1)), pair)),
        ):
            if resume:
                training.restore()
            return training.run(progress and group.rank == 0)


def _check_arguments(given: dict[str, Any]) -> None:
    if (given["epochs"] is None) == (given["steps"] is None):
        raise ValueError(
            f"epochs, steps: found {given['epochs']} and {given['steps']}, expected exactly one of the two; "
            "epochs=10 goes through the data ten times"
        )
    for name in ("epochs", "steps", "batch_size", "patience", "checkpoint_every"):
        if given[name] is not None:
            at_least_one(name, given[name])
    needs = {"patience": "held_out", "keep_best": "held_out", "resume": "checkpoint", "checkpoint_every": "checkpoint"}
    for name, needed in needs.items():
        if given[name] and given[needed] is None:
            raise ValueError(f"{name}: found {given[name]} without {needed}, expected both; give `{needed}=` as well")
    if given["compile"] not in ("auto", True, False):
        raise ValueError(f"compile: found {given['compile']!r}, expected 'auto', True or False")
    if given["clip_norm"] is not None and not given["clip_norm"] > 0:
        raise ValueError(f"clip_norm: found {given['clip_norm']}, expected more than 0, or None not to clip")
    if given["ema"] is not None and not 0 < given["ema"] < 1:
        raise ValueError(f"ema: found {given['ema']}, expected a decay between 0 and 1, such as 0.999, or None")
    if given["autocast"] not in (None, torch.bfloat16):
        raise ValueError(
            f"autocast: found {given['autocast']}, expected torch.bfloat16 or None; float16 would need its gradients "
            "scaled"
        )
    if given["seed"] < 0:
        raise ValueError(f"seed: found {given['seed']}, expected 0 or more")
    if not any(p.requires_grad for p in given["pair"].parameters()):
        raise ValueError(
            f"pair: found no parameter of {type(given['pair']).__name__} with `requires_grad`, expected at least one; "
            "make what is to be learned an nn.Parameter"
        )


def _long_enough(num_steps: int, device: torch.device) -> bool:
    """Whether compiling is likely to pay."""
    return num_steps >= AUTO_COMPILE_STEPS and device.type == "cpu"


def _optimizer(optimizer: str | Callable[..., Optimizer], pair: Pair, lr: float) -> Optimizer:
    learned = [p for p in pair.parameters() if p.requires_grad]
    if not isinstance(optimizer, str):
        return optimizer(learned, lr=lr)
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer: found '{optimizer}', expected one of {list(OPTIMIZERS)}, or a torch optimizer class"
        )
    # One kernel for all parameters takes a third of the time; but it takes their storages for the gradients' order.
    fused = learned[0].device.type in ("cpu", "cuda") and all(p.is_contiguous() for p in learned)
    return OPTIMIZERS[optimizer](learned, lr=lr, fused=fused)


def _check_same_data(group: Processes, data: Batch) -> None:
    """Refuses data that differ from process to process."""
    prints = group.gather(fingerprint(data))
    if (other := next((rank for rank, found in enumerate(prints) if found != prints[0]), None)) is not None:
        raise ValueError(
            f"data: found {prints[other]} in process {other} and {prints[0]} in process 0, expected the same in all, "
            "as each batch is shared among them; seed what makes the data"
        )


def _check_data(
    pair: Pair, name: str, data: Batch, objective: Objective, transform: Callable[[Any], Any] | None, batch_size: int
) -> None:
    """Refuses a pair that breaks the contract, and the first data point that its model cannot have generated."""

    def chunk(start: int, size: int) -> Batch:
        points = to_pair(rows(data, slice(start, start + size)), pair)
        return transform(points) if transform else points

    pair.check(chunk(0, batch_size))
    objective(pair, chunk(0, batch_size))  # what it finds out about a pair at its first call belongs here, too
    size = 4 * batch_size  # without gradients there is room for more
    for start in range(0, num_rows(data), size):
        points = chunk(start, size)
        if (reason := _refusal(pair, objective, points)) is None:
            continue
        for row in range(num_rows(points)):
            if (why := _refusal(pair, objective, rows(points, slice(row, row + 1)))) is not None:
                raise ValueError(
                    f"{name}: found data point {start + row} outside the model's support ({why}), expected one that "
                    "the likelihood can give; check its range and type, or choose another likelihood"
                )
        raise ValueError(
            f"{name}: found a log weight that is not finite among data points {start} to {start + size} ({reason})"
        )


@torch.no_grad()
def _refusal(pair: Pair, objective: Objective, points: Batch) -> str | None:
    """Why the pair has no finite log weight for these data points, if it has not."""
    try:
        log_w = as_objective(objective).probe(pair, points)
    except ValueError as error:
        return str(error).splitlines()[0]
    return None if log_w.isfinite().all() else "its log weight is not finite"
