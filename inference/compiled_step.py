"""A step of training as one compiled program: objective, gradients, check of finiteness, and the optimiser's update."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ppvae.batches import Batch, tensors
from ppvae.inference.objectives import Objective, with_penalty
from ppvae.inference.programs import Call, CannotCompileError, compiled
from ppvae.inference.update import Update
from ppvae.pair import Pair


class CompiledStep:
    """A step of training, compiled for batches of one shape; see `ppvae.inference.programs`.

    If the optimiser's `step` cannot be traced, or the gradients are to be exchanged with other processes first, the
    program goes up to the gradients, and the rest follows.

    Args:
        pair: the model and guide, in training mode.
        objective: what is maximised; its schedules reach the program as tensors.
        update: the end of the step, whose optimiser has taken one, so that its state is there.
        batch: one like those to come.

    Raises:
        CannotCompileError: the step cannot be traced, there is no compiler, or the program's bound is not the eager
            one.
    """

    def __init__(self, pair: Pair, objective: Objective, update: Update, batch: Batch):
        self._objective, self._update = objective, update
        self._call = Call(pair)
        self._parameters = {name: p for name, p in self._call.named_parameters() if p.requires_grad}
        self._buffers = dict(self._call.named_buffers())
        optimizer = update.optimizer
        self._rates, self._at = [torch.tensor(0.0) for _ in optimizer.param_groups], torch.tensor(0.0)
        self._schedules = getattr(objective, "schedules", ())
        self._shapes = _shapes(batch)
        state = [  # what the program writes back to: always these same tensors
            [p.detach() for p in self._parameters.values()],
            list(self._buffers.values()),
            [optimizer.state[p] for p in self._parameters.values()],
            list(update.averages.values()),
        ]
        self._state_leaves = tree_leaves(state)
        inputs, self._structure = tree_flatten((state, self._changing(batch, 0.0)))
        device = next(pair.parameters()).device
        self._whole = update.processes.size == 1
        try:
            self._program = compiled(self._step, inputs, lambda: self._eager_bound(batch), device)
        except CannotCompileError:
            if not self._whole:
                raise
            self._whole = False
            self._program = compiled(self._step, inputs, lambda: self._eager_bound(batch), device)

    def fits(self, batch: Batch) -> bool:
        """Whether the program is for batches of this shape."""
        return _shapes(batch) == self._shapes

    def __call__(self, batch: Batch, step: float, share: float, before: Sequence[Tensor]) -> float | None:
        """Takes the step; arguments and result as those of `Update`."""
        with torch.no_grad():
            report, *found = self._program(*self._state_leaves, *tree_leaves(self._changing(batch, step)))
        if self._whole:
            bound, total = report.tolist()
            return bound if math.isfinite(total) else None
        gradients = iter(found)
        reached = [next(gradients) if has_gradient else None for has_gradient in self._reached]
        return self._update(report[0], reached, step, share, before)

    def _changing(self, batch: Batch, step: float) -> list[Any]:
        """What the program reads besides the state: learning rates, schedules, the step, the batch."""
        for rate, group in zip(self._rates, self._update.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        schedules = [torch.tensor(getattr(self._objective, name)(step)) for name in self._schedules]
        return [self._rates, schedules, self._at.fill_(step), batch]

    def _step(self, *leaves: Tensor) -> list[Tensor]:
        """What is traced: the update, if all is finite. Returns the mean bound and a sum that tells (and gradients)."""
        (parameters, buffers, moments, averages), (rates, schedules, at, batch) = tree_unflatten(
            list(leaves), self._structure
        )
        learnt, running = [p.detach().requires_grad_() for p in parameters], [b.clone() for b in buffers]
        objective = copy.copy(self._objective)
        for name, now in zip(self._schedules, schedules, strict=True):
            object.__setattr__(objective, name, now)  # past a frozen dataclass's guard, and its checks of plain numbers
        named = dict(zip([*self._parameters, *self._buffers], [*learnt, *running], strict=True))
        value, surrogate = self._call.with_tensors(named, partial(with_penalty, objective), batch, at)
        gradients = torch.autograd.grad(surrogate.neg(), learnt, allow_unused=True)
        found = [g for g in gradients if g is not None]
        self._reached = [g is not None for g in gradients]
        bound = value.mean().detach()
        total = torch.stack([bound, *[g.sum() for g in found]]).sum().detach()
        before, after = [buffers], [running]
        if self._whole:
            before += [parameters, moments, averages]
            after += self._updated(parameters, moments, averages, rates, gradients, at)
        for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
            old.copy_(torch.where(total.isfinite(), new.detach(), old))
        return [torch.stack([bound, total]), *([] if self._whole else found)]

    def _updated(
        self,
        parameters: list[Tensor],
        moments: list[dict[str, Tensor]],
        averages: list[Tensor],
        rates: list[Tensor],
        gradients: Sequence[Tensor | None],
        step: Tensor,
    ) -> list[Any]:
        """Parameters, the optimiser's state and averages after the update, run on copies as if to be differentiated."""
        parameters, averages = [p.clone() for p in parameters], [average.clone() for average in averages]
        copies = dict(zip(self._parameters.values(), parameters, strict=True))
        optimizer = copy.copy(self._update.optimizer)
        optimizer.state = {  # type: ignore[assignment]
            p: {name: t.clone() for name, t in state.items()} for p, state in zip(parameters, moments, strict=True)
        }
        traceable = {"differentiable": True, "foreach": False, "fused": None, "capturable": False}
        optimizer.param_groups = [
            group | traceable | {"params": [copies[p] for p in group["params"]], "lr": rate.detach().requires_grad_()}
            for group, rate in zip(self._update.optimizer.param_groups, rates, strict=True)
        ]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        self._update.advance(optimizer, parameters, averages, step)
        return [parameters, list(optimizer.state.values()), averages]

    def _eager_bound(self, batch: Batch) -> Tensor:
        buffers = {name: b.clone() for name, b in self._buffers.items()}
        return self._call.with_tensors(buffers, self._objective, batch, 0.0)[0].mean()


def _shapes(batch: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (t.shape, t.dtype) for name, t in tensors(batch).items()}
