"""Compiled programs: what a function of a pair does to tensors, recorded once and handed to a compiler.

The function runs once under `make_fx`, which records the tensor operations that Pyro's handlers and autograd issue;
that flat list goes to inductor. Nothing of Pyro or of torch's dispatcher is left in the program. Random numbers are
drawn by torch's own generators in the order in which the function draws them, so the two differ only by rounding.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from ppvae.inference.compiling import compiler
from ppvae.inference.compiling.agreement import Precision, refuse_other_results, same_numbers
from ppvae.inference.compiling.counters import advance_at_once
from ppvae.inference.compiling.cuda_graph import Program, captured
from ppvae.inference.compiling.formulas import FORMULAS
from ppvae.inference.compiling.held_tensors import held_tensors, refuse_learned
from ppvae.inference.compiling.inputs import CannotCompileError
from ppvae.inference.compiling.kept_state import state_stays
from ppvae.inference.compiling.masked_entries import without_masked_shapes
from ppvae.inference.compiling.reasons import reason
from ppvae.inference.compiling.recorded import recorded
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

GRAPHED = ("cuda",)
"""Devices on which programs become CUDA graphs."""
CALLS = 3
"""Calls in a row that are compared."""


class Call(nn.Module):
    """A function of a pair (an objective, a draw) as a module, so that it can run with other parameters."""

    def __init__(self, pair: Pair):
        super().__init__()
        self.pair = pair

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        before = dict(self.named_buffers())
        result = function(self.pair, *args)
        for name, buffer in self.named_buffers():
            if buffer is not before.get(name):
                raise CannotCompileError(
                    f"{name.removeprefix('pair.')}: found a buffer that is assigned in a call, expected one that is "
                    "changed in place, as by copy_ or add_"
                )
        return result

    def with_tensors(self, tensors: Mapping[str, Tensor], *args: Any) -> Any:
        """`self(*args)` with these in place of the parameters and buffers of their names.

        A parameter that several modules share is replaced in each, and a module that has several names is visited once:
        otherwise `functional_call` would restore it under one name and leave the replacement under the other.
        """
        names = {id(t): name for name, t in [*self.named_parameters(), *self.named_buffers()]}
        places = {
            f"{prefix}.{name}": names[id(t)]
            for prefix, module in self.named_modules()
            for own in (module.named_parameters, module.named_buffers)
            for name, t in own(recurse=False, remove_duplicate=False)
        }
        everywhere = {place: tensors[name] for place, name in places.items() if name in tensors}
        return torch.func.functional_call(self, everywhere, args, tie_weights=False)


@contextmanager
def untouched(*owners: Any) -> Iterator[list[Tensor]]:
    """Around all that runs users' code to make a program, and is no part of what it would have done; see `state_stays`.

    Raises:
        CannotCompileError: an owner changes, or there is an error of any kind, in users' code, the tracer or the
            compiler.
    """
    try:
        with state_stays(*owners) as met:
            yield met
    except CannotCompileError:
        raise
    except Exception as error:
        raise CannotCompileError(reason(error)) from error


def compiled(
    function: Program,
    inputs: Sequence[Tensor],
    eager: Callable[[], Sequence[Tensor]],
    met: list[Tensor],
    num_held: int = 0,
    *,
    learned: Sequence[Tensor] = (),
    record: bool = False,
) -> Program:
    """`function` as a program for tensors like `inputs`, within `untouched`.

    What Python decides while `function` is traced (a branch, a loop, an attribute that is no parameter or buffer) is
    fixed in the program; a branch on a tensor's value, or a shape that depends on it, cannot be traced. The program is
    compared with `eager` by `check_program`. Random generators and the inputs' contents are left as they were.

    With `record` it is not compiled: its operations run one by one, but without Python; see `recorded`.

    On a GPU, a program whose first `num_held` inputs are the same tensors at each call becomes a CUDA graph if it can.

    Args:
        eager: what `function` does to `inputs`, without a program.
        met, learned: see `traced`.

    Raises:
        CannotCompileError: `function` does something else at another call.
    """
    device = inputs[0].device
    before = random_state(device)
    trace = partial(traced, function, inputs, met, learned, FORMULAS if device.type == "cpu" and not record else {})
    try:
        program = (recorded if record else compiler.program)(trace, inputs, device)
        set_random_state(before, device)
        exact = is_exact(record, device)
        check = partial(check_program, inputs=inputs, eager=eager, device=device, num_held=num_held, exact=exact)
        check(program)
        return as_graph(program, inputs, num_held, device, check) if num_held and device.type in GRAPHED else program
    finally:
        set_random_state(before, device)


def is_exact(record: bool, device: torch.device) -> bool:
    """Whether a program gives the eager results to the last bit."""
    return record and device.type == "cpu"


def check_program(
    program: Program,
    inputs: Sequence[Tensor],
    eager: Callable[[], Sequence[Tensor]],
    device: torch.device,
    num_held: int,
    *,
    exact: bool = False,
    updates: bool = False,
) -> None:
    """Compares what the program returns and writes with what `eager` does, on the same noise.

    That is done three times in a row, as Python may do something else at each second or third call. Generators and the
    inputs' contents are put back.

    Args:
        eager: it returns what the program does, and writes what the program writes to the inputs.
        exact: whether all must be equal to the last bit, or to the rounding of sums in another order.
        updates: whether the program also updates held inputs, as `eager` does not; these are not compared then.

    Raises:
        CannotCompileError: they differ.
    """
    before = random_state(device)
    with torch.no_grad():
        contents = [t.detach().clone() for t in inputs]
    try:
        for _ in range(CALLS):
            start = random_state(device)
            with Precision() as precision:
                expected = [t.detach() for t in eager()]
            if not updates:
                expected += [t.detach().clone() for t in inputs]
            _put_back(inputs, contents)
            drawn = random_state(device)["cpu"]
            set_random_state(start, device)
            own = [*inputs[:num_held], *[t.clone() for t in contents[num_held:]]]
            with torch.no_grad():
                found = [*program(*own), *([] if updates else own)]
            draws_alike = torch.equal(drawn, random_state(device)["cpu"])
            if not draws_alike:
                raise CannotCompileError(
                    "the program draws other random numbers than the model and the guide: is a part run again for its "
                    "gradient, as by torch.utils.checkpoint, or is a draw not used?"
                )
            refuse_other_results(found, expected, exact, precision.half)
            _put_back(inputs, contents)
    finally:
        set_random_state(before, device)
        _put_back(inputs, contents)


@torch.no_grad()
def _put_back(tensors: Sequence[Tensor], contents: Sequence[Tensor]) -> None:
    for t, content in zip(tensors, contents, strict=True):
        if not same_numbers(t, content):
            t.copy_(content)


def as_graph(
    program: Program, inputs: Sequence[Tensor], num_held: int, device: torch.device, check: Callable[[Program], None]
) -> Program:
    """`program` as a CUDA graph that passes the check, or itself, with a warning, where that fails."""
    try:
        graph = captured(program, inputs, num_held, device)
        check(graph)
        return graph
    except Exception as reason:  # of any kind: whether a program can be recorded depends on its contents
        logger.warning("the program is run kernel by kernel, not as a CUDA graph: %s", reason)
        return program


def traced(
    function: Program,
    inputs: Sequence[Tensor],
    met: list[Tensor],
    learned: Sequence[Tensor],
    formulas: Mapping[Any, Any] | None = None,
) -> GraphModule:
    """The tensor operations of a function of tensors like `inputs`, those that have formulas as these.

    Args:
        met: gets the tensors that the trace has met and not been given; see `untouched`.
        learned: tensors whose gradients the function takes, on copies.
    """
    with torch.enable_grad(), _HiddenValues():
        graph = _graph(function, inputs, formulas or {})
    without_masked_shapes(graph)
    met += held_tensors(graph)
    refuse_learned(met, learned)
    return graph


def _graph(function: Program, inputs: Sequence[Tensor], formulas: Mapping[Any, Any]) -> GraphModule:
    """The operations, as they come when `function` runs on copies of the inputs."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with tracing(TracingContext(FakeTensorMode())):  # else torch makes a mode for each tensor, half of its time
        return make_fx(function, dict(formulas))(*[t.clone() for t in inputs])


class _HiddenValues(TorchFunctionMode):
    """Refuses to show values to Python and NumPy, in the ways that torch's tracer does not see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise RuntimeError("data-dependent: numbers of Python or NumPy are made of a tensor's")
        return func(*args, **(kwargs or {}))


def operations(function: Program, inputs: Sequence[Tensor]) -> Program:
    """`function` as the tensor operations that it applies to tensors like `inputs`, one by one, without compilation.

    Counters among the inputs that it advances together come to share memory, and are advanced by one operation.
    """
    graph = _graph(function, inputs, {})
    advance_at_once(graph, inputs)
    for node in reversed(graph.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if name.startswith("_record_function"):
            graph.graph.erase_node(node)
        elif name.startswith(("_fused_", "_foreach_")):
            node.target = getattr(torch, name.partition(".")[0])  # the same in half the time
    graph.recompile()
    return graph.forward


@contextmanager
def buffers_stay(pair: Pair) -> Iterator[None]:
    """Around what measures a pair, whose buffers a program may hold.

    Raises:
        CannotCompileError: one was changed.
    """
    before = {name: (b, b.clone()) for name, b in pair.named_buffers()}
    yield
    for name, b in pair.named_buffers():
        if name in before and not (b is before[name][0] and same_numbers(b, before[name][1])):
            raise CannotCompileError(
                f"{name}: found a buffer that a call changes in evaluation mode, expected one that stays; change it "
                "only where self.training is true"
            )
