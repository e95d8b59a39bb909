"""The training step that `fit` takes, also for a loop of your own."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.arguments import Device, File, NonNegative, Seed, checked
from ppvae.batches import Batch, as_batch, map_batch, num_rows, rows
from ppvae.conversion import Conversion
from ppvae.devices import device_for
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.protocol import Maximized, as_objective, with_penalty
from ppvae.inference.runtime.checkpoint import describe, layout
from ppvae.inference.runtime.descriptions import training_described
from ppvae.inference.runtime.distributed import group_for
from ppvae.inference.runtime.element_count import ElementCount
from ppvae.inference.runtime.isolation import (
    denormals_flushed,
    interrupts_held,
    one_thread,
    own_randomness,
    random_state,
    seeded_state,
    set_random_state,
)
from ppvae.inference.runtime.pair_files import example_in, example_of
from ppvae.inference.training import optimizers
from ppvae.inference.training.mixed_precision import networks, networks_in
from ppvae.inference.training.nonfinite import NonFiniteError, explain
from ppvae.inference.training.normalized_latents import refuse_normalized_latents
from ppvae.inference.training.one_row import one_row_explained
from ppvae.inference.training.prepared import Prepared
from ppvae.inference.training.resuming import (
    State,
    check_trainer_state,
    groups_of,
    optimizer_state,
    plain,
    restore,
    set_optimizer_state,
    store,
)
from ppvae.inference.training.settings import StepOptions
from ppvae.inference.training.step_programs import StepPrograms
from ppvae.inference.training.update import Update
from ppvae.mode import buffer_places, mode
from ppvae.own_rows import refuse_other_rows, refuse_parts, rows_or_all
from ppvae.pair import Pair
from ppvae.parameters import OwnParameters
from ppvae.state import saved_state, set_state, state_of, unsaved_buffers
from ppvae.threads import exclusive, undisturbed

CHECK, STEPS, ORDER, HELD_OUT, CALLBACKS = range(5)
"""Streams of random numbers: one for each use, so that none disturbs another."""

LITTLE = 300_000
"""Elements of all tensors made for a batch's bound up to which a step runs on one thread."""


class Trainer:
    """Takes the steps of `fit`, one at a time, in a loop of your own.

    `theta <- theta + lr * schedule(steps done) * direction(gradient of the surrogate on a batch)`.

    A step runs the pair in training mode, with random numbers from generators seeded by `seed`, on a CPU with denormals
    flushed, and on one thread where there is little to compute; the caller's generators, settings and the pair's mode
    are restored after it. Given the batches of `fit`, untransformed, and its seed, n steps give the same parameters as
    `fit`, bit for bit. A transform draws its random numbers from the caller's generators here, in `fit` from the
    step's.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); Kingma & Ba 2015 (arXiv:1412.6980) for Adam.

    Args:
        pair: its parameters with `requires_grad` are learned.
        objective: what to maximize: an objective, or a function `(pair, batch, step) -> (value, surrogate)`; `ELBO()`
            if not given.
        optimizer: "adam", "adamw" or "sgd"; `ParameterGroups`; or a function called with the parameters and `lr=lr`.
        lr: learning rate.
        schedule: from the number of steps done, 0 at the first, to a factor on the learning rate. (That of `fit` goes
            from the fraction done: only it knows how many steps there will be.)
        seed: of all draws; not negative.
        device: where to train; the pair is moved there and stays. By default where the pair is.
        compile: run a step as one compiled program. The first step is not compiled, nor are batches of another size.
        options: how a step is taken; see `StepOptions`.

    Attributes:
        steps: how many were taken.
        optimizer: torch's, with its state.
        device: where training happens.

    Raises:
        ValueError: an argument out of range, a device that is not here, or a pair with nothing to learn.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        >>> trainer = Trainer(LinearVAE(num_features=5, num_latents=2), lr=0.01)
        >>> bounds = [trainer.step(batch) for _ in range(3) for batch in x.split(32)]
        >>> trainer.steps
        6
    """

    @checked
    @undisturbed
    def __init__(
        self,
        pair: Pair,
        objective: Maximized | None = None,
        *,
        optimizer: optimizers.AnyOptimizer = "adam",
        lr: NonNegative = 1e-3,
        schedule: Callable[[int], float] | None = None,
        seed: Seed = 0,
        device: Device | None = None,
        compile: bool = False,
        options: StepOptions | None = None,
    ):
        given = dict(locals())
        optimizers.refuse_unknown(optimizer)
        optimizers.refuse_nothing_learned(pair)
        self.device = device_for(pair, device)
        self.pair, self.objective, self.schedule, self.seed = pair, objective or ELBO(), schedule, seed
        self.options = options or StepOptions()
        self.processes = group_for(self.options.distributed, self.device)
        self.processes.agree(lambda: training_described(pair, self.device, given))
        pair.to(self.device)
        self._places = buffer_places(pair)
        self.processes.copy_first([*pair.parameters(), *pair.buffers()])
        learned = optimizers.learned_by(pair)
        self.optimizer = optimizers.optimizer_for(optimizer, learned, lr, scheduled=schedule is not None)
        self.update = Update(self.optimizer, learned, self._buffers(), self.options, self.processes)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

        self.steps, self._running = 0, False
        self.progress = True
        """Whether waits are shown."""
        self.programs = StepPrograms(pair, self.objective, self.update, compile)
        self.prepared = Prepared(self.objective, pair)
        self._networks: list[nn.Module] | None = None  # found when the pair is checked, on the first batch
        self._random = seeded_state((self.seed, STEPS, self.processes.rank), self.device)
        self.converted = Conversion(pair)
        self.first_bound = math.nan  # of the batch that the pair was checked on
        self.elements, self._points = math.inf, 1  # of tensors made for the bound of so many, which were checked
        self._settings = self._at_the_start()

    @undisturbed
    def step(self, batch: Any) -> float:
        """Takes one step; Ctrl-C waits for its end.

        Args:
            batch: B data points: a tensor or array, or a tuple or dict of them sharing dimension 0. With several
                processes, all give the same batch, and each takes its share of it.

        Returns:
            The batch's mean bound before the step, in nats per data point.

        Raises:
            ppvae.ContractError: the pair breaks the contract, which is checked at the first step.
            ValueError: a bad batch; the index is named. Or other parameters to learn than at the start.
            NonFiniteError: the step gave NaN or infinity. It names the site and the row of the batch; pair, optimizer
                and random numbers are as before the step.
        """
        with interrupts_held(), self.update.shared():
            optimizers.refuse_others(self.update.parameters, self.pair)
            whole = self.converted(map_batch(lambda t: t.to(self.device, copy=True), as_batch(batch)))
            refuse_other_rows(self.pair, whole)
            refuse_parts(self.pair, num_rows(whole), self.processes.size)
            if self._networks is None:
                self.check(whole)
            index = self.processes.share(torch.arange(num_rows(whole), device=self.device))
            own = rows(whole, index) if self.processes.size > 1 else whole
            self.update.whole = whole
            with self.running():
                return self.take_step(lambda: own, index, num_rows(whole))

    @checked
    @exclusive
    def save(self, path: File) -> None:
        """Writes the whole state to a file: pair, optimizer, averages, random numbers, and how many steps were taken.

        All processes call this together, and the first one writes.

        `ppvae.load` reads the pair alone from it, or the average of its parameters where there is one.

        Args:
            path: of the file, which replaces any old one whole or not at all.

        Raises:
            NonFiniteError, ValueError, OSError: a parameter has become NaN, or the file cannot be written.
        """
        self.processes.agree()
        store(self, path)

    @checked
    @exclusive
    def load(self, path: File) -> None:
        """Goes on from a file that `save` wrote, bit for bit; the trainer must have been made in the same way.

        Args:
            path: of the file.

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: the file is damaged or foreign, or its settings differ from the trainer's (the differing
                ones are named). Nothing has changed then.
        """
        self.processes.agree()
        restore(self, path)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """For the block, makes the average of the parameters, if `options.ema` keeps one, the pair's parameters."""
        self.update.swap_averages()
        try:
            yield
        finally:
            self.update.swap_averages()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Sets the process up for steps and restores it afterwards; around a loop, once instead of at each step."""
        if self._running:
            yield
            return
        caller = torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])
        autocast = networks_in(self.options.autocast, self._networks or [], self.device)
        with denormals_flushed(), caller, mode(self.pair, training=True), pyro.validation_enabled(False), autocast:
            set_random_state(self._random, self.device)
            self._running = True
            try:
                yield
            finally:
                self._running = False
                self._random = random_state(self.device)

    def check(self, batch: Batch) -> None:
        """Refuses a pair that breaks the contract on this batch, and finds its networks, for mixed precision."""
        with denormals_flushed(), own_randomness((self.seed, CHECK), self.device):
            with mode(self.pair, training=False), pyro.validation_enabled(True):
                self.pair.check(batch)
                refuse_normalized_latents(self.pair, batch)
                objective = as_objective(self.objective)
                with ElementCount() as made, OwnParameters(self.pair):
                    bound, _ = objective(self.pair, batch, math.inf)  # so that it refuses before the first step
                self.elements, self._points = made.total, num_rows(batch)
                self.first_bound = bound.detach().double().mean().item()
            if self._networks is None:
                self._networks = (
                    networks(self.pair, rows_or_all(self.pair, batch, slice(1))) if self.options.autocast else []
                )

    def take_step(
        self, draw: Callable[[], Batch], index: Tensor, num_points: int, weights: Tensor | None = None
    ) -> float:
        """The step itself, inside `running`; if anything goes wrong, the state is as before the step.

        Args:
            draw: makes this process's part of the batch; it may use random numbers, which are then the step's own.
            index: of the data points in that part, for error messages.
            num_points: in the whole batch.
            weights: of the data points in that part, where they are weighed.
        """
        buffers = [b.clone() for b in self._buffers()]
        with self.threads(num_points), self.undone_on_error(buffers):
            self.set_rates()
            batch = draw()
            drawn = random_state(self.device)
            program = self.programs.for_step(self.steps, batch, weights, num_points, self.progress)
            share = len(index) / num_points
            bound = program(batch, weights, self.steps, share, buffers) if program else None
            if bound is None:
                set_random_state(drawn, self.device)
                bound = self._eager_step(batch, weights, share, index, buffers, drawn)
        self.programs.size = self.programs.size or num_points
        self.steps += 1
        return bound

    def launch_step(self, batch: Batch, weights: Tensor | None) -> Tensor:
        """A step of the program alone, once the rates are set, whatever its bound is; see `CompiledStep.launch`."""
        report = self.programs.launch(self.steps, batch, weights)
        self.steps += 1
        return report

    @contextlib.contextmanager
    def undone_on_error(self, buffers: Sequence[Tensor] = ()) -> Iterator[None]:
        """On an error, puts back generators, learning rates, and the pair's buffers, if given as these were."""
        randomness, rates = random_state(self.device), [group["lr"] for group in self.optimizer.param_groups]
        held = self._buffers()
        try:
            yield
        except BaseException:
            set_random_state(randomness, self.device)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            for (place, name), buffer, before in zip(self._places, held, buffers, strict=False):
                place[name] = buffer  # another may have been assigned
                buffer.copy_(before)
            self.optimizer.zero_grad()
            raise

    def set_rates(self) -> None:
        """Sets the learning rates of the next step, if there is a schedule."""
        if self.schedule:
            factor = optimizers.rate_factor(self.schedule, self.steps)
            for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = rate * factor

    def _eager_step(
        self,
        batch: Batch,
        weights: Tensor | None,
        share: float,
        index: Tensor,
        buffers: list[Tensor],
        randomness: dict[str, Tensor],
    ) -> float:
        """Takes the step operation by operation, and returns the batch's mean bound."""
        parameters = self.update.parameters
        gradients: list[Tensor | None] = [None] * len(parameters)
        mean = torch.zeros((), device=self.device)
        if share:
            with one_row_explained():
                mean, surrogate = with_penalty(self.prepared(batch), self.pair, batch, self.steps, weights)
            gradients = list(torch.autograd.grad(surrogate.neg(), list(parameters.values()), allow_unused=True))
        self.update.buffers = self._buffers()  # which may have been assigned
        bound = self.update(mean.detach(), gradients, self.steps, share, buffers)
        if bound is None:
            set_random_state(randomness, self.device)
            named = dict(zip(parameters, gradients, strict=True))
            objective = as_objective(self.objective)
            raise NonFiniteError(explain(lambda: objective(self.pair, batch, self.steps), named, index))
        return bound

    def _buffers(self) -> list[Tensor]:
        """The pair's buffers that it had at the start, as they are now."""
        return [held[name] for held, name in self._places]

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint must be of, that this may go on from it."""
        return self._settings | {"compile": self.programs.compiles}

    def threads(self, num_points: int) -> contextlib.AbstractContextManager[None]:
        """Around steps of so many data points: where there is little to compute, one thread."""
        return one_thread(self.elements / self._points * num_points <= LITTLE)

    def _at_the_start(self) -> dict[str, Any]:
        options = asdict(self.options)
        del options["distributed"]  # a run may go on with any number of processes
        return plain(
            {
                "pair": type(self.pair).__qualname__,
                "tensors": layout(state_of(self.pair)),
                "learned": list(self.update.parameters),
                "objective": describe(self.objective),
                "optimizer": type(self.optimizer).__qualname__,
                "optimizer_groups": dict(enumerate(groups_of(self.optimizer))),
                "schedule": describe(self.schedule) if self.schedule else None,
                "seed": self.seed,
                "device": self.device.type,
                "options": options,
            }
        )

    def state(self) -> State:
        """All that the next steps depend on, besides the settings; all processes call this together."""
        states = self.processes.gather(random_state(self.device) if self._running else self._random)
        slots, optimizer = optimizer_state(self.optimizer)
        example, kind = example_of(self.pair)
        tensors = {"pair": saved_state(self.pair), "unsaved": unsaved_buffers(self.pair), "optimizer": slots}
        tensors |= {"average": self.update.averages, "example": example}
        values = {"steps": self.steps, "compiled_size": self.programs.size, "optimizer": optimizer, "example": kind}
        values |= {"recipe": self.pair.recipe}
        tensors |= {f"random{rank}": state for rank, state in enumerate(states)}
        return State(tensors, values | {"processes": len(states)})

    def set_state(self, state: State) -> None:
        """Goes on from a state of the same settings, not within `running`."""
        check_trainer_state(state, self.state(), list(self.update.parameters), self.optimizer, self.device)
        values = state.values
        example = example_in(state.source, state.tensors["example"], values["example"])
        set_optimizer_state(self.optimizer, state.tensors["optimizer"], values["optimizer"])
        set_state(self.pair, state.tensors["pair"] | state.tensors["unsaved"])
        if example is not None:
            self.pair.example = example
        for name, average in state.tensors["average"].items():
            self.update.averages[name].copy_(average)
        self.steps, self.programs.size = values["steps"], values["compiled_size"]
        self.programs.forget()  # the program holds the tensors of the optimizer's old state
        rank = self.processes.rank
        if values["processes"] == self.processes.size:
            self._random = state.tensors[f"random{rank}"]
        else:  # a run of another number of processes does not tell how these share the noise
            self._random = seeded_state((self.seed, self.steps, rank), self.device)
