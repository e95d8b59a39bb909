"""Compiled programs: what a function of a pair does to tensors, recorded once and handed to a compiler.

The function runs once under `make_fx`, which records the tensor operations that Pyro's handlers and autograd issue;
that flat list goes to inductor. Nothing of Pyro or of torch's dispatcher is left in the program. Random numbers are
drawn by torch's own generators in the order in which the function draws them, so the two differ only by rounding.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from ppvae.batches import Batch
from ppvae.inference.compiling import compiler
from ppvae.inference.compiling.counters import advance_at_once
from ppvae.inference.compiling.cuda_graph import Program, captured
from ppvae.inference.compiling.formulas import FORMULAS
from ppvae.inference.compiling.inputs import CannotCompileError, taken_apart
from ppvae.inference.compiling.kept_state import state_stays
from ppvae.inference.compiling.masked_entries import without_masked_shapes
from ppvae.inference.compiling.reasons import reason
from ppvae.inference.compiling.recorded import recorded
from ppvae.inference.objectives.protocol import Objective, as_objective
from ppvae.inference.runtime.isolation import random_state, set_random_state
from ppvae.pair import Pair

logger = logging.getLogger("ppvae")

GRAPHED = ("cuda",)
"""Devices on which programs become CUDA graphs."""
AGREEMENT = 1e-3
"""The largest relative difference between a compiled value and the eager one, which sums in another order."""


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


def compiled(
    function: Program,
    inputs: Sequence[Tensor],
    bound: Callable[[], Tensor],
    device: torch.device,
    owners: Sequence[Any],
    num_held: int = 0,
    *,
    record: bool = False,
) -> Program:
    """`function` as a program for tensors like `inputs`; the first number of its first result is the bound.

    What Python decides while `function` is traced (a branch, a loop, an attribute that is no parameter or buffer) is
    fixed in the program; a branch on a tensor's value, or a shape that depends on it, cannot be traced. The program is
    run once and compared with `bound` on the same noise. Random generators and the inputs' contents are left as they
    were.

    With `record` it is not compiled: its operations run one by one, but without Python; see `recorded`.

    On a GPU, a program whose first `num_held` inputs are the same tensors at each call becomes a CUDA graph if it can.

    Args:
        owners: modules, functions and objects that `function` runs, which are to stay as they are.

    Raises:
        CannotCompileError: `function` cannot be traced, there is no compiler, the bounds differ, or an owner changes.
    """
    before = random_state(device)
    formulas = FORMULAS if device.type == "cpu" and not record else {}

    def trace() -> GraphModule:
        graph = traced(function, inputs, formulas)
        met.extend(getattr(graph, node.target) for node in graph.graph.find_nodes(op="get_attr"))
        return graph

    try:
        with state_stays(*owners) as met:
            program = (recorded if record else compiler.program)(trace, inputs, device)
            set_random_state(before, device)
            check = partial(check_program, inputs=inputs, bound=bound, device=device, num_held=num_held)
            check(program)
        return as_graph(program, inputs, num_held, device, check) if num_held and device.type in GRAPHED else program
    except CannotCompileError:
        raise
    except Exception as error:  # of any kind: users' code, the tracer, the compiler
        raise CannotCompileError(reason(error)) from error
    finally:
        set_random_state(before, device)


def check_program(
    program: Program, inputs: Sequence[Tensor], bound: Callable[[], Tensor], device: torch.device, num_held: int
) -> None:
    """Compares the program's bound with `bound`, on the same noise; generators and the inputs' contents stay.

    Raises:
        CannotCompileError: they differ.
    """
    before, held = random_state(device), inputs[:num_held]
    with torch.no_grad():
        contents = [t.clone() for t in held]
    try:
        expected = bound().detach().flatten()[0].item()
        drawn = random_state(device)["cpu"]
        set_random_state(before, device)
        with torch.no_grad():
            found = program(*held, *[t.clone() for t in inputs[num_held:]])[0].flatten()[0].item()
        draws_alike = torch.equal(drawn, random_state(device)["cpu"])
    finally:
        set_random_state(before, device)
        for t, content in zip(held, contents, strict=True):
            t.copy_(content)
    if not draws_alike:
        raise CannotCompileError(
            "the program draws other random numbers than the model and the guide: is a part run again for its "
            "gradient, as by torch.utils.checkpoint, or is a draw not used?"
        )
    if math.isfinite(expected) and not abs(found - expected) <= AGREEMENT * (1 + abs(expected)):
        raise CannotCompileError(
            f"the compiled bound is {found}, the eager one {expected}: does the model or the guide decide something in "
            "Python that changes from call to call, or keep state outside parameters and buffers?"
        )


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


def traced(function: Program, inputs: Sequence[Tensor], formulas: Mapping[Any, Any]) -> GraphModule:
    """The tensor operations of a function of tensors like `inputs`, those that have formulas as these."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.enable_grad(), _Unseen():
        graph = make_fx(function, dict(formulas))(*[t.clone() for t in inputs])  # tracing runs the function
    without_masked_shapes(graph)
    return graph


class _Unseen(TorchFunctionMode):
    """Refuses to show values to Python and NumPy, in the ways that torch's tracer does not see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise RuntimeError("data-dependent: numbers of Python or NumPy are made of a tensor's")
        return func(*args, **(kwargs or {}))


def operations(function: Program, inputs: Sequence[Tensor]) -> Program:
    """`function` as the tensor operations that it applies to tensors like `inputs`, one by one, without compilation.

    Counters among the inputs that it advances together come to share memory, and are advanced by one operation.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function)(*[t.clone() for t in inputs])
    advance_at_once(graph, inputs)
    for node in reversed(graph.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if name.startswith("_record_function"):
            graph.graph.erase_node(node)
        elif name.startswith(("_fused_", "_foreach_")):
            node.target = getattr(torch, name.partition(".")[0])  # the same in half the time
    graph.recompile()
    return graph.forward


def compiled_gradient(
    objective: Objective, pair: Pair, batch: Batch, parameters: Sequence[Tensor]
) -> Callable[[], tuple[Tensor, Tensor]]:
    """`ppvae.inference.diagnostics.chunked_gradient.gradient` of these arguments as a program, all particles at once.

    Raises:
        CannotCompileError: as `compiled`.
    """
    call, objective = Call(pair), as_objective(objective).prepared(pair, batch)
    names = {id(p): name for name, p in call.named_parameters()}
    inputs, put_together = taken_apart([[p.detach() for p in parameters], batch])

    def function(*leaves: Tensor) -> list[Tensor]:
        copies, data = put_together(leaves)
        copies = [p.detach().requires_grad_() for p in copies]
        named = {names[id(p)]: own for p, own in zip(parameters, copies, strict=True)}
        value, surrogate = call.with_tensors(named, objective, data, math.inf)
        return [value.detach(), flat_gradient(surrogate, copies)]

    owners = (pair, objective)
    program = compiled(function, inputs, lambda: objective(pair, batch)[0], parameters[0].device, owners)

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor]:
        value, found = program(*inputs)
        return value, found

    return run


def flat_gradient(surrogate: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all parameters, `[P]`; zero for those that the surrogate does not reach."""
    if not surrogate.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found]).detach()  # the zeros of torch 2.8 require gradients
