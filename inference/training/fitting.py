"""Training a pair by stochastic gradient ascent on a bound."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from ppvae.arguments import Count, Device, File, NonNegative, Seed, checked
from ppvae.batches import as_batch
from ppvae.devices import device_for
from ppvae.files import check_target
from ppvae.inference.compiling.programs import is_exact
from ppvae.inference.objectives.protocol import Maximized
from ppvae.inference.runtime.descriptions import training_described
from ppvae.inference.runtime.distributed import group_for
from ppvae.inference.training.intake import Intake, check_data
from ppvae.inference.training.loop import Training
from ppvae.inference.training.optimizers import AnyOptimizer, rate_factor, refuse_others
from ppvae.inference.training.result import Fit
from ppvae.inference.training.resuming import setting_in
from ppvae.inference.training.schedulers import RateSchedule, Scheduler, makes_scheduler, refuse_momentum
from ppvae.inference.training.settings import Checkpoint, HeldOut, StepOptions
from ppvae.inference.training.trainer import Trainer
from ppvae.own_rows import refuse_other_rows
from ppvae.pair import Pair
from ppvae.rules import Function
from ppvae.threads import undisturbed

Callback = Annotated[Callable[[Fit], None], Function("a function of the Fit so far", takes=1)]

COMPILE_STEPS, ELEMENTS = 20_000, 1_000_000
"""Compiling takes some 8 seconds, and saves 0.4 milliseconds a step, and as much again for each million elements."""
RECORDED = ("cpu", "cuda")
RECORD_AFTER = 100
"""Steps that take about as long as recording one, so that a run takes at most twice the optimum."""


@checked
@undisturbed
def fit(
    pair: Pair,
    data: Any,
    objective: Maximized | None = None,
    *,
    epochs: Count | None = None,
    steps: Count | None = None,
    batch_size: Count = 128,
    drop_last: bool = False,
    weights: Any = None,
    optimizer: AnyOptimizer = "adam",
    lr: NonNegative = 1e-3,
    schedule: RateSchedule | None = None,
    seed: Seed = 0,
    device: Device | None = None,
    transform: Callable[[Any], Any] | None = None,
    held_out: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    compile: Literal["auto", True, False] = "auto",
    checkpoint: File | Checkpoint | None = None,
    resume: bool = False,
    options: StepOptions | None = None,
) -> Fit:
    """Trains a pair, in place, by stochastic gradient ascent on a bound.

    `theta <- theta + lr * schedule(step / steps) * direction(gradient of the surrogate on a minibatch)`. Each epoch
    goes once through the data in a fresh order; its last batch may be smaller and is run as it is.

    Floating data become of the type of the pair's parameters; integers and booleans stay so where the pair runs with
    them, as indices or masks, and become floating where it does not. Neither `transform` nor the pair is given the
    caller's own memory. All data are checked before the first step, those of an iterable batch by batch in the first
    epoch. A non-finite step is not applied and ends training. Ctrl-C ends it too, between two steps, and the result
    says so. Random numbers come from generators seeded by `seed`; on a CPU denormals are flushed; the caller's
    generators, denormal setting and the pair's mode are restored at the end. On a CPU the same seed gives the same
    parameters bit for bit, also after resuming, for the same number of threads; on a GPU as far as its kernels are
    deterministic.

    What it maximizes is a bound: a higher one can mean a better model or a tighter guide. `ppvae.gap` tells which.
    For a loop of your own, `ppvae.Trainer` takes the same steps.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); Kingma & Ba 2015 (arXiv:1412.6980) for Adam.

    Args:
        pair: its parameters with `requires_grad` are learned.
        data: N data points: a tensor, an array or a table of pandas; a tuple or dict of them sharing dimension 0, and
            of arguments that are no data; a `TensorDataset`, a `Subset`, or a data set of Hugging Face's in torch
            format. Or, for data that do not fit memory, a `DataLoader` or any other iterable of batches: it is read
            anew in each epoch by `iter()`, in an order of its own; what it draws from torch's generators is decided by
            `seed`. To resume, it must give the same batches again (persistent workers may not, and are refused); those
            done are skipped.
        objective: what to maximize: an objective, or a function `(pair, batch, step) -> (value, surrogate)`; `ELBO()`
            if not given.
        epochs: how many times to go through the data. Either this or `steps`.
        steps: how many minibatches to take.
        batch_size: B, data points per step; all of them for a guide with parameters for its own rows, as an AutoNormal.
            An iterable's batches have their own.
        drop_last: leave out an epoch's last batch where it is smaller, as batch norm needs where it has one row.
        weights: of the data points, `[N]`, not negative: one of weight 2 counts as two alike. The surrogate and the
            bound of each step are means of weight times term, with weights scaled to a mean of one over all data.
        optimizer: "adam", "adamw" or "sgd"; or a function called with the list of parameters and `lr=lr`, such as
            `functools.partial(torch.optim.AdamW, weight_decay=1e-2)`; or `ParameterGroups`, for rates of their own.
        lr: learning rate.
        schedule: from the fraction of steps done, in [0, 1), to a factor on the learning rate. Decay to a tenth is
            `lambda done: 0.1**done`. Or what makes a torch scheduler from an optimizer: its class, a `partial` of it,
            or a function whose argument is called `optimizer`. It is stepped after each epoch (`OneCycleLR` and
            `CyclicLR` after each step); `ReduceLROnPlateau` is told the loss, minus the held-out bound where there is
            one, else minus the epoch's.
        seed: of minibatches and all other draws; not negative.
        device: where to train; pair and data are moved there, and the pair stays. By default where the pair is. Data
            that would take over half of a GPU's free memory stay on the host and are fetched ahead of each step.
        transform: applied to each minibatch of `data`, a copy of its own; `torch.bernoulli` makes dynamic binarization.
        held_out: data whose bound is computed after each epoch; or `HeldOut(data, ...)`, to stop early, or to keep the
            best epoch's parameters.
        callbacks: called after each epoch with the `Fit` so far. One that raises `StopIteration` ends training. They
            may not change what is learned. What they draw, as `pair.sample` does, leaves the steps' noise as it is.
        progress: show a bar, on a terminal or in a notebook; see `ppvae.set_progress`.
        compile: run a step as one compiled program, the same estimator with the same noise several times faster, after
            some seconds of compiling. "auto": on a CPU, for at least 20,000 steps, fewer of large networks or batches
            (7,000 of 784-200-200-50 with a hundred data points). In other runs, in one process and without callbacks,
            the operations of step 101 are recorded and repeated without Python, on a GPU as a CUDA graph, to the same
            bits. What Python decides in the model or the guide (a branch, a loop) is decided once, when the step is
            traced. All results are compared again after 2, 4, 8, 16, ... steps, and after callbacks; from a difference
            on training goes on uncompiled; with False it is decided at each step. What cannot be compiled runs
            uncompiled, with a warning that says why. The first step, and smaller batches, are not compiled, but on
            a CPU an epoch's smaller last batch is recorded after a hundred of them. A run that goes on from a file
            stays as it was.
        checkpoint: a file that keeps the state of training, written after each epoch and its callbacks, on Ctrl-C and
            on SIGTERM, in place of an old one; or `Checkpoint(path, every=...)`, to write it within epochs, too. Where
            it cannot be written, as the disk is full, training goes on, and the result's `warning` says so.
        resume: go on from `checkpoint` if it exists. A run that has ended may be given more epochs if it has no
            schedule, a larger patience, or other callbacks: those of a run that one of them ended are asked again.
        options: how a step is taken: clipping, an average of the parameters, mixed precision, several processes; see
            `StepOptions`. If an average is kept, the pair ends with its values.

    Returns:
        Fit: history, why training ended, and the pair itself.

    Raises:
        ppvae.ContractError: the pair breaks the contract.
        ValueError: bad data (the index is named), a data point outside the support of the model, an iterable that can
            be read once only, a device that is not here, an argument out of range, a checkpoint's path that leads
            to a folder or a device, or settings that differ between processes that train together.
        RuntimeError: another of these has failed, has ended, or does something else.
        OSError: the checkpoint could not be written there; found before the first step.
        CheckpointError: the file to resume from is damaged, or from another run; the pair is untouched.
        NonFiniteError: a step gave NaN or infinity; the message names the site, and its `fit` holds the history.

    Example:
        >>> import torch
        >>> from ppvae.models import LinearVAE
        >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
        >>> fit(LinearVAE(num_features=5, num_latents=2), x, epochs=3, lr=0.01, progress=False).steps
        6
    """
    given = dict(locals())
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"epochs, steps: found {epochs} and {steps}, expected exactly one of the two; "
            "epochs=10 goes through the data ten times"
        )
    if resume and checkpoint is None:
        raise ValueError(f"resume: found {resume} without checkpoint, expected both; give `checkpoint=` as well")
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    if checkpoint is not None:
        check_target(checkpoint.path)
    where = device_for(pair, device)
    processes = group_for((options or StepOptions()).distributed, where)
    given["checkpoint every"] = checkpoint and (checkpoint.every or "epoch")
    processes.agree(lambda: training_described(pair, where, given))
    intake = Intake.of(data, weights, batch_size, drop_last)
    if checkpoint is not None:
        intake.refuse_persistent_workers()
    by_torch, schedule = (schedule, None) if makes_scheduler(schedule) else (None, schedule)
    num_steps = intake.num_steps(epochs, steps, schedule)
    trainer = Trainer(
        pair,
        objective,
        optimizer=optimizer,
        lr=lr,
        schedule=None if schedule is None else lambda done: schedule(done / cast(int, num_steps)),
        seed=seed,
        device=where,
        compile=compile is True,
        options=options,
    )
    if trainer.schedule is not None:
        rate_factor(trainer.schedule, 0)
    scheduler = None if by_torch is None else Scheduler(by_torch, trainer.optimizer)
    if scheduler is not None and compile is True:
        refuse_momentum(scheduler)
    trainer.progress = progress and processes.rank == 0
    with processes.together(lambda: source.described() | {"bound at the start": trainer.first_bound}):
        source = intake.source(trainer, transform)
        if held_out is not None:
            held_out = held_out if isinstance(held_out, HeldOut) else HeldOut(held_out)
            held_out = replace(held_out, data=as_batch(held_out.data, trainer.device))
            refuse_other_rows(pair, held_out.data)
            check_data(trainer, "held_out", held_out.data, None, batch_size)
    may_record = compile is not False and not callbacks and where.type in RECORDED and processes.size == 1
    trainer.programs.records_rest = may_record and is_exact(True, where)
    if compile == "auto" and (scheduler is None or not scheduler.moved):
        earlier = processes.first(lambda: _compiled_in(checkpoint)) if resume and checkpoint else None
        trainer.programs.compiles = _is_long(trainer, num_steps) if earlier is None else earlier
        if not trainer.programs.compiles and may_record:
            trainer.programs.record_after = RECORD_AFTER
    if callbacks:
        callbacks = [*callbacks, lambda run: refuse_others(trainer.update.parameters, pair)]
    training = Training(
        trainer=trainer,
        source=source,
        epochs=epochs,
        batch_size=batch_size,
        num_steps=num_steps,
        schedule=schedule,
        scheduler=scheduler,
        transform=transform,
        held_out=held_out,
        checkpoint=checkpoint,
        callbacks=callbacks,
    )
    if resume:
        training.resume()
    return training.run(trainer.progress)


def _is_long(trainer: Trainer, num_steps: int | None) -> bool:
    """Whether compiling is likely to pay off."""
    if num_steps is None or trainer.device.type != "cpu":
        return False
    return num_steps * (1 + trainer.elements / ELEMENTS) >= COMPILE_STEPS


def _compiled_in(checkpoint: Checkpoint) -> bool | None:
    """Whether the steps of a run that goes on were compiled; None if it only begins."""
    return setting_in(checkpoint.path, "compile") if Path(checkpoint.path).exists() else None
