"""Pairs of one structure trained as one: each parameter is that of all, and one program runs them together."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule

from ppvae.batches import Batch, made_beside
from ppvae.inference.compiling.inputs import CannotCompileError, kind_of, taken_apart
from ppvae.inference.compiling.programs import Call, traced, untouched
from ppvae.inference.compiling.reasons import reason
from ppvae.inference.compiling.stacked import stacked
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.mode import mode
from ppvae.pair import Pair
from ppvae.refusals import ContractError


class Ensemble(Pair):
    """S pairs of one structure: a copy of the first, in which each parameter and buffer is that of all, `[S, *shape]`.

    Args:
        pairs: the runs.

    Attributes:
        others: all but the first, until they are known to compute what it does, if given the same values.

    Raises:
        ppvae.ContractError: they differ in more than the values of parameters and buffers.
    """

    def __init__(self, pairs: Sequence[Pair]):
        super().__init__()
        _refuse_others(pairs)
        self.size, self.run, self.others = len(pairs), _copied(pairs[0]), pairs[1:]
        states = [tensors_of(pair) for pair in pairs]
        for name, t in tensors_of(self.run).items():
            t.data = torch.stack([state[name].detach() for state in states])

    @property
    def stand_ins(self) -> Sequence[Pair]:
        """The others, which run with the first one's values: an LSTM still lists its own (`flatten_parameters()`)."""
        return self.others

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
        return Call(self.run).with_tensors(self.values(number), function)

    def values(self, number: int) -> dict[str, Tensor]:
        """Parameters and buffers of one of the pairs, by the names that `Call` gives them."""
        return {f"pair.{name}": t.detach()[number] for name, t in tensors_of(self.run).items()}

    def given_back(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Copies of the pairs that this was made of, with what they have learned."""
        found = [_copied(pair) for pair in pairs]
        for number, pair in enumerate(found):
            pair.example, pair.particles, pair.guide_leads = self.example, self.run.particles, self.run.guide_leads
            for t, value in zip(tensors_of(pair).values(), self.values(number).values(), strict=True):
                t.data = value.clone()
        return found


class OfAll(Objective):
    """An objective for each pair of an ensemble: the mean of their values, and each one's own gradient.

    It is traced for the first of them, and runs under vmap for all; so only what can be traced can be maximized.

    Args:
        objective: of one pair.
        programs: by kind of batch; shared by those that `at` makes.
        held: the values of its schedules, if they are held.
    """

    def __init__(
        self,
        objective: Objective,
        programs: dict[Any, "_Program"] | None = None,
        held: Mapping[str, Any] | None = None,
    ):
        self.objective, self._held = objective, held
        self._programs = {} if programs is None else programs

    def __repr__(self) -> str:
        return repr(self.objective)

    def __call__(self, pair: Pair, batch: Batch, step: float | Tensor = math.inf) -> tuple[Tensor, Tensor]:
        ensemble = cast(Ensemble, pair)
        schedules = [torch.as_tensor(value) for value in (self._held or self.scheduled(cast(float, step))).values()]
        changing, put_together = taken_apart((schedules, torch.as_tensor(step), batch))
        kind = (kind_of(batch), ensemble.training)
        if kind not in self._programs:
            self._programs[kind] = self._program(ensemble, changing, put_together)
        value, gradients = self._programs[kind](ensemble, changing)
        named = dict(ensemble.run.named_parameters())
        terms = [(named[name] * g.conj()).real.sum() for name, g in gradients.items()]
        return value.mean(0), torch.stack(terms).sum()

    def _program(self, ensemble: Ensemble, changing: Sequence[Tensor], put_together: Callable[..., Any]) -> "_Program":
        """Value and gradients of all runs for batches of this kind."""
        call, run = Call(ensemble.run), ensemble.run
        given = put_together(list(changing))[-1]
        prepared = ensemble.of_one(0, lambda pair: self.objective.prepared(pair, given))
        names = list(ensemble.values(0))
        learned = [name for name, t in zip(names, tensors_of(run).values(), strict=True) if t.requires_grad]
        reached: list[str] = []

        def of_one(
            pair: Pair, parameters: Sequence[Tensor], objective: Objective, batch: Batch, step: Tensor
        ) -> list[Tensor]:
            value, surrogate = objective(pair, batch, step)
            with made_beside(batch):
                penalty = pair.penalty()
            gradients = torch.autograd.grad(surrogate - penalty, parameters, allow_unused=True)
            found = {name.removeprefix("pair."): g for name, g in zip(learned, gradients, strict=True) if g is not None}
            _refuse_sparse(found)
            reached[:] = found
            return [value.detach(), *found.values()]

        def function(*leaves: Tensor, call: Call = call, objective: Objective = prepared) -> list[Tensor]:
            schedules, step, batch = put_together(leaves[len(names) :])
            named = dict(zip(names, leaves, strict=False))
            parameters = [named[name].requires_grad_() for name in learned]
            held = objective.at(dict(zip(self.schedules, schedules, strict=True)))
            return call.with_tensors(named, of_one, parameters, held, batch, step)

        def of_run(number: int, pair: Pair) -> list[Tensor]:
            call, own = Call(pair), ensemble.values(number)
            with mode(pair, training=ensemble.training), torch.enable_grad():
                objective = call.with_tensors(own, lambda pair: self.objective.prepared(pair, given))
                set_random_state(before, changing[0].device)
                return function(*[t.clone() for t in (*own.values(), *changing)], call=call, objective=objective)

        inputs = [*ensemble.values(0).values(), *[t.detach().clone() for t in changing]]
        before = random_state(inputs[0].device)
        try:
            with pyro.validation_enabled(False), untouched(run, self.objective) as met:
                graph = _traced(function, inputs, met, [t for t in tensors_of(run).values() if t.requires_grad])
                results = [
                    (of_run(number, other), of_run(number, run)) for number, other in enumerate(ensemble.others, 1)
                ]
        except CannotCompileError as error:
            if isinstance(error.__cause__, ContractError):  # alone, it would be refused, too
                raise error.__cause__ from None
            raise _cannot_run(run, str(error)) from error
        finally:
            set_random_state(before, inputs[0].device)
        for number, (found, expected) in enumerate(results, 1):
            _refuse_other_results(number, found, expected)
        if ensemble.training:
            ensemble.others = ()
        return _Program(stacked(graph, [0] * len(names) + [None] * len(changing)), list(reached))

    @property
    def num_particles(self) -> int:  # type: ignore[override]
        return self.objective.num_particles

    @property
    def schedules(self) -> tuple[str, ...]:
        return self.objective.schedules

    def scheduled(self, step: float) -> dict[str, float]:
        return self.objective.scheduled(step)

    def at(self, values: Mapping[str, Any]) -> "OfAll":
        return OfAll(self.objective, self._programs, values)

    def probe(self, pair: Pair, batch: Batch) -> Tensor:
        ensemble = cast(Ensemble, pair)
        each = [ensemble.of_one(i, lambda own: self.objective.probe(own, batch)) for i in range(ensemble.size)]
        return torch.stack(each).sum(0)


@dataclass(frozen=True)
class _Program:
    """An objective and its gradients for all runs of an ensemble at once.

    Args:
        function: of all runs' parameters and buffers, then of all that changes.
        reached: the parameters that the objective depends on; an optimizer leaves others alone.
    """

    function: Callable[..., Sequence[Tensor]]
    reached: list[str]

    @torch.no_grad()
    def __call__(self, ensemble: Ensemble, changing: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The values `[S, B]`, and the gradients by parameter.

        Raises:
            ppvae.ContractError: there is an operation that vmap does not know.
        """
        try:
            value, *gradients = self.function(*[t.detach() for t in tensors_of(ensemble.run).values()], *changing)
        except Exception as error:  # of any kind: whether it can be run for all depends on its operations
            raise _cannot_run(ensemble.run, reason(error)) from error
        return value, dict(zip(self.reached, gradients, strict=True))


def _traced(*args: Any) -> GraphModule:
    """`traced`, without oneDNN's operation for a whole LSTM, which vmap does not know."""
    backend = torch.backends.mkldnn
    before = backend.enabled  # its `flags` would set, and warn of, others too
    backend.enabled = False  # type: ignore[assignment]
    try:
        return traced(*args)
    finally:
        backend.enabled = before


def tensors_of(pair: Pair) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {name: t for name, t in [*pair.named_parameters(), *pair.named_buffers()]}


def _copied(pair: Pair) -> Pair:
    try:
        found = copy.deepcopy(pair)
    except Exception as error:  # of any kind: users' code
        raise _cannot_run(pair, f"copy.deepcopy fails with {reason(error)}") from error
    for name, p in found.named_parameters():
        if not p.is_leaf:
            raise _cannot_run(pair, f"{name}: copy.deepcopy makes no parameter of it, as of those of TorchScript")
    return found


def _cannot_run(pair: Pair, why: str) -> ContractError:
    return ContractError(
        f"{type(pair).__name__}: found what cannot be run for several pairs at once, {why}; train them one by one, by "
        "ppvae.fit"
    )


def _refuse_others(pairs: Sequence[Pair]) -> None:
    layouts = [{name: (t.shape, t.dtype, t.requires_grad) for name, t in tensors_of(pair).items()} for pair in pairs]
    for pair, layout in zip(pairs, layouts, strict=True):
        if type(pair) is not type(pairs[0]) or layout != layouts[0]:
            raise ContractError(
                f"make_pair: found a {type(pair).__name__} of another structure than the first, expected pairs that "
                "differ in the values of parameters alone"
            )


def _refuse_sparse(gradients: Mapping[str, Tensor]) -> None:
    if sparse := [name for name, g in gradients.items() if g.layout != torch.strided]:
        raise CannotCompileError(
            f"{sparse[0]}: found a sparse gradient, expected a dense one; make its nn.Embedding with sparse=False, as "
            "the optimizer is given dense ones anyway"
        )


def _refuse_other_results(number: int, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Refuses a pair that computes something else than the first does with its parameters and the same noise."""
    if [t.shape for t in found] == [t.shape for t in expected] and all(map(_is_near, found, expected)):
        return
    raise ContractError(
        f"make_pair: found that pair {number} computes other numbers than pair 0 does with its parameters, expected "
        "pairs that differ in the values of parameters and buffers alone; keep what differs in a buffer, or train them "
        "one by one, by ppvae.fit"
    )


def _is_near(a: Tensor, b: Tensor) -> bool:
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    scale = b.abs().nan_to_num().max().item() if b.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
