"""Pairs of one structure trained as one: each parameter is that of all, and one program runs them together."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from ppvae.batches import Batch, made_beside
from ppvae.inference.compiling.inputs import CannotCompileError, kind_of, taken_apart
from ppvae.inference.compiling.programs import Call, traced, untouched
from ppvae.inference.compiling.stacked import stacked
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.pair import Pair
from ppvae.refusals import ContractError


class Ensemble(Pair):
    """S pairs of one structure: a copy of the first, in which each parameter and buffer is that of all, `[S, *shape]`.

    Args:
        pairs: the runs.

    Raises:
        ppvae.ContractError: they differ in more than the values of parameters and buffers.
    """

    def __init__(self, pairs: Sequence[Pair]):
        super().__init__()
        _refuse_others(pairs)
        self.size, self.run = len(pairs), copy.deepcopy(pairs[0])
        states = [tensors_of(pair) for pair in pairs]
        for name, t in tensors_of(self.run).items():
            t.data = torch.stack([state[name].detach() for state in states])

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """That of the first pair, as `guide`."""
        return self.of_one(0, lambda pair: pair.model(*args, **kwargs))

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        return self.of_one(0, lambda pair: pair.guide(*args, **kwargs))

    def check(self, batch: Any) -> None:
        """Checks the first pair."""
        self.of_one(0, lambda pair: pair.check(batch))
        self.example = self.run.example

    def check_once(self, batch: Batch) -> None:
        """Checks the first pair."""
        self.of_one(0, lambda pair: pair.check_once(batch))

    def of_one(self, number: int, function: Callable[[Pair], Any]) -> Any:
        """What a function makes of one of the pairs."""
        own = {f"pair.{name}": t.detach()[number] for name, t in tensors_of(self.run).items()}
        return Call(self.run).with_tensors(own, function)

    def pairs(self) -> list[Pair]:
        """The runs, each as a pair of its own."""
        found = [copy.deepcopy(self.run) for _ in range(self.size)]
        for number, pair in enumerate(found):
            for t in tensors_of(pair).values():
                t.data = t.data[number].clone()
        return found


class OfAll(Objective):
    """An objective for each pair of an ensemble: the mean of their values, and each one's own gradient.

    It is traced for the first of them, and runs under vmap for all; so only what can be traced can be maximized.

    Args:
        objective: of one pair.
        traced: by kind of batch; shared by those that `at` makes.
        held: the values of its schedules, if they are held.
    """

    def __init__(
        self,
        objective: Objective,
        traced: dict[Any, Callable[..., Any]] | None = None,
        held: Mapping[str, Any] | None = None,
    ):
        self.objective, self._held = objective, held
        self._traced = {} if traced is None else traced

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        ensemble = cast(Ensemble, pair)
        schedules = [torch.as_tensor(value) for value in (self._held or self.scheduled(cast(float, step))).values()]
        changing, put_together = taken_apart((schedules, torch.as_tensor(step), batch))
        kind = (kind_of(batch), ensemble.training)
        if kind not in self._traced:
            self._traced[kind] = self._trace(ensemble, changing, put_together)
        with torch.no_grad():
            value, *gradients = self._traced[kind](*[t.detach() for t in tensors_of(ensemble.run).values()], *changing)
        learned = [t for t in tensors_of(ensemble.run).values() if t.requires_grad]
        return value.mean(0), torch.stack([(p * g).sum() for p, g in zip(learned, gradients, strict=True)]).sum()

    def _trace(
        self, ensemble: Ensemble, changing: Sequence[Tensor], put_together: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Value and gradients, as a function of all runs' parameters and buffers, then of all that changes."""
        call, run = Call(ensemble.run), ensemble.run
        given = put_together(list(changing))[-1]
        prepared = ensemble.of_one(0, lambda pair: self.objective.prepared(pair, given))
        own = {f"pair.{name}": t.detach()[0] for name, t in tensors_of(run).items()}
        learned = [name for name, t in zip(own, tensors_of(run).values(), strict=True) if t.requires_grad]

        def of_one(
            pair: Pair, parameters: Sequence[Tensor], objective: Objective, batch: Batch, step: Tensor
        ) -> list[Tensor]:
            value, surrogate = objective(pair, batch, step)
            with made_beside(batch):
                penalty = pair.penalty()
            gradients = torch.autograd.grad(surrogate - penalty, parameters, materialize_grads=True)
            return [value.detach(), *gradients]

        def function(*leaves: Tensor) -> list[Tensor]:
            schedules, step, batch = put_together(leaves[len(own) :])
            named = dict(zip(own, leaves, strict=False))
            parameters = [named[name].requires_grad_() for name in learned]
            objective = prepared.at(dict(zip(self.schedules, schedules, strict=True)))
            return call.with_tensors(named, of_one, parameters, objective, batch, step)

        inputs = [*own.values(), *[t.detach().clone() for t in changing]]
        before = random_state(inputs[0].device)
        try:
            with pyro.validation_enabled(False), untouched(run, self.objective) as met:
                graph = traced(function, inputs, met, [t for t in tensors_of(run).values() if t.requires_grad])
        except CannotCompileError as error:
            raise ContractError(
                f"{type(run).__name__}: found what cannot be run for several pairs at once, {error}; train them one by "
                "one, by ppvae.fit"
            ) from error
        finally:
            set_random_state(before, inputs[0].device)
        return stacked(graph, [0] * len(own) + [None] * len(changing))

    @property
    def num_particles(self) -> int:  # type: ignore[override]
        return self.objective.num_particles

    @property
    def schedules(self) -> tuple[str, ...]:
        return self.objective.schedules

    def scheduled(self, step: float) -> dict[str, float]:
        return self.objective.scheduled(step)

    def at(self, values: Mapping[str, Any]) -> "OfAll":
        return OfAll(self.objective, self._traced, values)

    def probe(self, pair: Pair, batch: Batch) -> Tensor:
        ensemble = cast(Ensemble, pair)
        each = [ensemble.of_one(i, lambda own: self.objective.probe(own, batch)) for i in range(ensemble.size)]
        return torch.stack(each).sum(0)


def tensors_of(pair: Pair) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {name: t for name, t in [*pair.named_parameters(), *pair.named_buffers()]}


def _refuse_others(pairs: Sequence[Pair]) -> None:
    layouts = [{name: (t.shape, t.dtype, t.requires_grad) for name, t in tensors_of(pair).items()} for pair in pairs]
    for pair, layout in zip(pairs, layouts, strict=True):
        if type(pair) is not type(pairs[0]) or layout != layouts[0]:
            raise ContractError(
                f"make_pair: found a {type(pair).__name__} of another structure than the first, expected pairs that "
                "differ in the values of parameters alone"
            )
