"""A step of training without Pyro's handlers: a compiled program up to the gradients, and the optimizer's update.

The update is not compiled: torch's fused optimizers update all parameters at once, while generated code would be three
or four loops for each parameter, and take half of the compiling time.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppvae.batches import Batch, entries, with_entries
from ppvae.inference.compiling.cuda_graph import Program
from ppvae.inference.compiling.inputs import CannotCompileError, kind_of, taken_apart, tensors_in
from ppvae.inference.compiling.programs import (
    GRAPHED,
    Call,
    as_graph,
    check_program,
    compiled,
    is_exact,
    operations,
    untouched,
)
from ppvae.inference.compiling.python_numbers import AsPythonNumbers
from ppvae.inference.objectives.protocol import Maximized, Objective, as_objective, with_penalty
from ppvae.inference.runtime.isolation import one_thread
from ppvae.inference.training.optimizers import is_plainly_fused
from ppvae.inference.training.update import Update, laid_out_as
from ppvae.internals import memory_of, tree_flatten, tree_leaves, tree_unflatten
from ppvae.pair import Pair


class CompiledStep:
    """A step of training, compiled for batches of one shape; see `ppvae.inference.compiling.programs`.

    The values of what is no data in a batch are part of the program, too.

    If the optimizer is not a fused one, or the gradients must first be summed over processes, `Update` itself follows
    the program.

    Args:
        pair: the model and guide, in training mode.
        objective: what is maximized; its schedules reach the program as tensors.
        update: the end of the step; its optimizer must have taken a step, so that its state exists.
        batch: one of the shape that the program is for.
        weights: of its data points, where they are weighed.
        record: run the operations one by one instead; ready at once, but slower.

    Raises:
        CannotCompileError: the step cannot be traced, there is no compiler, the program's results are not the eager
            ones, or a module's attribute changes from call to call.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Maximized,
        update: Update,
        batch: Batch,
        weights: Tensor | None = None,
        record: bool = False,
    ):
        self._owners = (pair, objective)
        with untouched(*self._owners) as met:
            self._given, self._update = as_objective(objective), update
            self._objective = self._given.prepared(pair, batch)
            self._call = Call(pair)
            self._parameters = {name: p for name, p in self._call.named_parameters() if p.requires_grad}
            self._buffers = dict(self._call.named_buffers())
            _refuse_hooks(self._parameters)
            self._device = next(pair.parameters()).device
            self._scheduled = {name: self._number(value) for name, value in self._objective.scheduled(0.0).items()}
            self._at = self._number(0.0)
            precise = torch.float64 if self._device.type == "cpu" else torch.float32  # as fused optimizers read rates
            self._rates = [self._number(0.0).to(precise) for _ in update.optimizer.param_groups]
            self._kind = kind_of(batch)
            self._places = [
                (held, name, f"{prefix}.{name}".removeprefix("."), memory_of(t))
                for prefix, module in pair.named_modules()
                for held in (module._parameters, module._buffers)
                for name, t in held.items()
                if t is not None
            ]
            state = [[p.detach() for p in self._parameters.values()], list(self._buffers.values())]
            self._held = [*tree_leaves(state), *self._scheduled.values(), self._at]  # the same tensors at each call
            inputs, self._put_together = taken_apart((state, self._others(batch, weights)))
            eager = partial(self._eager, self._objective, batch, weights, 0.0)
            fused = is_plainly_fused(update.optimizer) and update.processes.size == 1
            self._graphed = fused and self._device.type in GRAPHED
            program_held = 0 if self._graphed else len(self._held)  # it becomes a part of the graph of the whole step
            learned = list(self._parameters.values())
            self._exact = is_exact(record, self._device)
            self._program = compiled(self._step, inputs, eager, met, program_held, learned=learned, record=record)
            self._advance = self._fused_update() if fused else None
            self._whole = self._whole_step(inputs, eager) if self._graphed else None

    def fits(self, batch: Batch) -> bool:
        """Whether the program is for batches of this shape, and with these values of what is no data."""
        return kind_of(batch) == self._kind

    def moved(self) -> str:
        """The name of a parameter or a buffer that is no longer where the program reads it; empty if all are."""
        for held, name, whole_name, memory in self._places:
            if name not in held or (now := held[name]) is None or memory_of(now) != memory:
                return whole_name
        return ""

    def compare(self, batch: Batch, weights: Tensor | None, step: float) -> None:
        """Compares all results at this step with those of the eager step once more, and leaves all as it was.

        Raises:
            CannotCompileError: they differ.
        """
        with untouched(*self._owners):
            inputs = self._inputs(batch, weights, step)
            objective = self._given.prepared(self._call.pair, batch)  # anew, as the pair may have changed
            eager = partial(self._eager, objective, batch, weights, step)
            check_program(self._program, inputs, eager, self._device, len(self._held), exact=self._exact)

    @property
    def updates(self) -> bool:
        """Whether the optimizer's update is a part of it, so that it can be launched."""
        return self._advance is not None

    @torch.no_grad()
    def launch(self, batch: Batch, weights: Tensor | None, step: float) -> Tensor:
        """Takes the step without a look at its bound: that is returned, with a one if anything is not finite."""
        inputs = self._inputs(batch, weights, step)
        self._set_rates()
        if self._whole is not None:
            return self._whole(*inputs)[0].clone()  # a CUDA graph overwrites it
        report, *found = self._program(*inputs)
        self._apply(found)
        return report

    @torch.no_grad()
    def __call__(
        self, batch: Batch, weights: Tensor | None, step: float, share: float, before: Sequence[Tensor]
    ) -> float | None:
        """Takes the step; arguments and result as for `Update`."""
        if self._whole is not None:
            bound, bad = self.launch(batch, weights, step).tolist()
            return None if bad else bound
        report, *found = self._program(*self._inputs(batch, weights, step))
        if self._advance is None:
            return self._update(report[0], self._per_parameter(found), step, share, before)
        bound, bad = report.tolist()
        if bad:
            return None
        self._set_rates()
        self._apply(found)
        return bound

    def _apply(self, found: Sequence[Tensor]) -> None:
        """The optimizer's update with these gradients."""
        assert self._advance is not None
        with one_thread(self._update.few):
            self._advance(*found)

    def _set_rates(self) -> None:
        for rate, group in zip(self._rates, self._update.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def _whole_step(self, inputs: Sequence[Tensor], eager: Callable[[], list[Tensor]]) -> Program:
        """The program and the update as one CUDA graph, or one after the other where it cannot be recorded.

        An update that is not finite changes nothing: from NaN, kernels of later steps may draw what ends the process.
        """

        @torch.no_grad()
        def whole(*tensors: Tensor) -> list[Tensor]:
            report, *found = self._program(*tensors)
            self._apply([*found, report[1].float()])
            return [report]

        num_held, device, put_back = len(self._held), self._device, self._update.snapshot()
        settings: Any = {"inputs": inputs, "eager": lambda: eager()[:1], "device": device, "num_held": num_held}
        try:
            return as_graph(whole, inputs, num_held, device, partial(check_program, **settings, updates=True))
        finally:
            put_back()

    def _others(self, batch: Batch, weights: Tensor | None) -> list[Any]:
        """What the program is given besides the state: values of schedules, the step, the batch and its weights."""
        # A CUDA graph would not read a tensor on the host again.
        placed = [v.to(self._device) if isinstance(v, Tensor) else v for v in entries(batch).values()]
        return [self._scheduled, self._at, with_entries(batch, placed), weights]

    def _inputs(self, batch: Batch, weights: Tensor | None, step: float) -> list[Tensor]:
        """The program's inputs at a step, in order: to walk a tree takes longer than small programs run."""
        self._set_numbers(step)
        data = [
            tensor
            for value in entries(batch).values()
            for tensor in ([value.to(self._device)] if isinstance(value, Tensor) else tensors_in(value))
        ]
        return [*self._held, *data, *([] if weights is None else [weights])]

    def _set_numbers(self, step: float) -> None:
        """Values of schedules and the step, in tensors that stay: to make one on a GPU, the host would wait for it."""
        for name, value in self._objective.scheduled(step).items():
            self._scheduled[name].fill_(value)
        self._at.fill_(step)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(float(value), dtype=torch.float64, device=self._device)

    def _step(self, *leaves: Tensor) -> list[Tensor]:
        """What is compiled: returns the mean bound with a one if anything is not finite, and the gradients."""
        (parameters, buffers), (schedules, at, batch, weights) = self._put_together(leaves)
        learned, running = [p.detach().requires_grad_() for p in parameters], [b.clone() for b in buffers]
        objective = self._objective.at(schedules)
        named = dict(zip([*self._parameters, *self._buffers], [*learned, *running], strict=True))
        function = partial(_gradients, objective, learned)
        with AsPythonNumbers([at, *schedules.values()]):
            bound, gradients = self._call.with_tensors(named, function, batch, at, weights)
        self._reached = [g is not None for g in gradients]
        finite, results = _results(parameters, bound, gradients)
        for old, new in zip(buffers, running, strict=True):
            old.copy_(torch.where(finite, new.detach(), old))
        return results

    def _per_parameter(self, found: Sequence[Tensor]) -> list[Tensor | None]:
        """A gradient for each parameter; None where the objective does not depend on it."""
        gradients = iter(found)
        return [next(gradients) if has_gradient else None for has_gradient in self._reached]

    def _fused_update(self) -> Callable[..., Any]:
        """`Update.advance`, recorded once, as a function of the gradients that updates these same tensors."""
        update, parameters = self._update, list(self._parameters.values())
        moments = [update.optimizer.state.get(p, {}) for p in parameters]
        state = [[p.detach() for p in parameters], moments, list(update.averages.values()), self._rates, self._at]
        gradients = [p.detach() for p, has_gradient in zip(parameters, self._reached, strict=True) if has_gradient]
        bad = [torch.zeros((), device=self._device)] if self._graphed else []
        inputs, structure = tree_flatten((state, gradients, bad))

        def advance(*leaves: Tensor) -> list[Tensor]:
            (copies, moments, averages, rates, step), found, bad = tree_unflatten(list(leaves), structure)
            copy_of = dict(zip(parameters, copies, strict=True))
            optimizer: Any = copy.copy(update.optimizer)
            optimizer.state = dict(zip(copies, moments, strict=True))
            optimizer.param_groups = [
                group | {"params": [copy_of[p] for p in group["params"]], "lr": rate}
                for group, rate in zip(update.optimizer.param_groups, rates, strict=True)
            ]
            for p, g in zip(copies, self._per_parameter(found), strict=True):
                p.grad = g
            update.advance(optimizer, copies, averages, step, *bad)
            return []

        return partial(operations(advance, inputs), *tree_leaves(state))

    def _eager(self, objective: Objective, batch: Batch, weights: Tensor | None, step: float) -> list[Tensor]:
        """What the program does, uncompiled: it returns the same, and changes buffers if all is finite."""
        before = [b.clone() for b in self._buffers.values()]
        learned = list(self._parameters.values())
        function = partial(_gradients, objective, learned)
        bound, gradients = self._call.with_tensors(self._buffers, function, batch, step, weights)
        finite, results = _results(learned, bound, gradients)
        if not finite:
            for b, old in zip(self._buffers.values(), before, strict=True):
                b.copy_(old)
        return results


def _gradients(
    objective: Objective, learned: Sequence[Tensor], pair: Pair, *args: Any
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The mean bound, and the loss's gradients: within the call, as parts of it may be run again for these."""
    bound, surrogate = with_penalty(objective, pair, *args)
    return bound, torch.autograd.grad(surrogate.neg(), learned, allow_unused=True)


def _results(
    parameters: Sequence[Tensor], bound: Tensor, gradients: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor]]:
    """Whether all is finite; and the mean bound with a one if not, and the gradients that there are."""
    found = [laid_out_as(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    bound = bound.detach()
    finite = torch.stack([bound, *[g.sum() for g in found]]).sum().detach().isfinite()
    return finite, [torch.stack([bound, finite.logical_not().to(bound.dtype)]), *found]


def _refuse_hooks(parameters: Mapping[str, Tensor]) -> None:
    """Refuses hooks on parameters' gradients, which those of a program do not pass."""
    for name, p in parameters.items():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise CannotCompileError(
                f"{name.removeprefix('pair.')}: found a hook on a parameter's gradient, expected none, as a program "
                "would not call it; to learn a part of a parameter, use p * mask + p.detach() * (1 - mask) in the model"
            )
