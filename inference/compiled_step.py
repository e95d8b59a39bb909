"""A step of training as one compiled program: objective, gradients, check of finiteness, and the optimiser's update."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ppvae.batches import Batch, tensors
from ppvae.inference.objectives import Objective
from ppvae.inference.programs import Call, CannotCompileError, compiled
from ppvae.pair import Pair


class CompiledStep:
    """A step of training, compiled for batches of one shape; see `ppvae.inference.programs`.

    If the optimiser's `step` cannot be traced, the program goes up to the gradients, and the optimiser follows.

    Args:
        pair: the model and guide, in training mode.
        objective: what is maximised; its schedules reach the program as tensors.
        optimizer: one that has taken a step, so that its state is there.
        batch: one like those to come.

    Raises:
        CannotCompileError: the step cannot be traced, there is no compiler, or the program's bound is not the eager
            one.
    """

    def __init__(self, pair: Pair, objective: Objective, optimizer: Optimizer, batch: Batch):
        self._objective, self._optimizer = objective, optimizer
        self._call = Call(pair)
        self._parameters = {name: p for name, p in self._call.named_parameters() if p.requires_grad}
        self._buffers = dict(self._call.named_buffers())
        self._rates, self._at = [torch.tensor(0.0) for _ in optimizer.param_groups], torch.tensor(0.0)
        self._schedules = getattr(objective, "schedules", ())
        self._shapes = _shapes(batch)
        state = [  # what the program writes back to: always these same tensors
            [p.detach() for p in self._parameters.values()],
            list(self._buffers.values()),
            [optimizer.state[p] for p in self._parameters.values()],
        ]
        self._state_leaves = tree_leaves(state)
        inputs, self._structure = tree_flatten((state, self._changing(batch, 0.0)))
        device = next(pair.parameters()).device
        self._updates = True
        try:
            self._program = compiled(self._step, inputs, lambda: self._eager_bound(batch), device)
        except CannotCompileError:
            self._updates = False
            self._program = compiled(self._step, inputs, lambda: self._eager_bound(batch), device)

    def fits(self, batch: Batch) -> bool:
        """Whether the program is for batches of this shape."""
        return _shapes(batch) == self._shapes

    def __call__(self, batch: Batch, step: float) -> float | None:
        """Takes the step and returns the batch's mean bound; None, and nothing changed, if it was not finite."""
        with torch.no_grad():
            report, *gradients = self._program(*self._state_leaves, *tree_leaves(self._changing(batch, step)))
        bound, total = report.tolist()
        if not math.isfinite(total):
            return None
        if not self._updates:
            reached = iter(gradients)
            for p, has_gradient in zip(self._parameters.values(), self._reached, strict=True):
                p.grad = next(reached) if has_gradient else None
            self._optimizer.step()
            self._optimizer.zero_grad()
        return bound

    def _changing(self, batch: Batch, step: float) -> list[Any]:
        """What the program reads besides the state: learning rates, schedules, the step, the batch."""
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        schedules = [torch.tensor(getattr(self._objective, name)(step)) for name in self._schedules]
        return [self._rates, schedules, self._at.fill_(step), batch]

    def _step(self, *leaves: Tensor) -> list[Tensor]:
        """What is traced: the update, if all is finite. Returns the mean bound and a sum that tells (or gradients)."""
        (parameters, buffers, moments), (rates, schedules, at, batch) = tree_unflatten(list(leaves), self._structure)
        learnt, running = [p.detach().requires_grad_() for p in parameters], [b.clone() for b in buffers]
        objective = copy.copy(self._objective)
        for name, now in zip(self._schedules, schedules, strict=True):
            object.__setattr__(objective, name, now)  # past a frozen dataclass's guard, and its checks of plain numbers
        named = dict(zip([*self._parameters, *self._buffers], [*learnt, *running], strict=True))
        value, surrogate = torch.func.functional_call(self._call, named, (objective, batch, at))
        gradients = torch.autograd.grad(surrogate.neg(), learnt, allow_unused=True)
        found = [g for g in gradients if g is not None]
        self._reached = [g is not None for g in gradients]
        total = torch.stack([value.mean(), surrogate, *[g.sum() for g in found]]).sum().detach()
        before, after = [buffers], [running]
        if self._updates:
            before += [parameters, moments]
            after += self._updated(parameters, moments, rates, gradients)
        for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
            old.copy_(torch.where(total.isfinite(), new.detach(), old))
        return [torch.stack([value.mean().detach(), total]), *([] if self._updates else found)]

    def _updated(
        self,
        parameters: list[Tensor],
        moments: list[dict[str, Tensor]],
        rates: list[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> list[Any]:
        """The parameters and the optimiser's state after its own `step`, run on copies as if to be differentiated."""
        parameters = [p.clone() for p in parameters]
        copies = dict(zip(self._parameters.values(), parameters, strict=True))
        optimizer = copy.copy(self._optimizer)
        optimizer.state = {  # type: ignore[assignment]
            p: {name: t.clone() for name, t in state.items()} for p, state in zip(parameters, moments, strict=True)
        }
        traceable = {"differentiable": True, "foreach": False, "fused": None, "capturable": False}
        optimizer.param_groups = [
            group | traceable | {"params": [copies[p] for p in group["params"]], "lr": rate.detach().requires_grad_()}
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True)
        ]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
        return [parameters, list(optimizer.state.values())]

    def _eager_bound(self, batch: Batch) -> Tensor:
        buffers = {name: b.clone() for name, b in self._buffers.items()}
        return torch.func.functional_call(self._call, buffers, (self._objective, batch, 0.0))[0].mean()


def _shapes(batch: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (t.shape, t.dtype) for name, t in tensors(batch).items()}
