"""The log of sums of products, given logs: a backend for `opt_einsum`, as `pyro.ops.einsum.torch_log` is one.

That one takes exponentials of each factor by itself, so a sum whose factors peak at different values underflows to
-inf (two observations that disagree about their common cause by 100 nats). Here the logs are added first.
"""

from pyro.ops.einsum.util import Tensordot
from torch import Tensor


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """`log sum exp` over the symbols that the output lacks, of the sum of the operands.

    Example:
        >>> import torch
        >>> einsum("a,a->", torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]))
        tensor(-499.3069)
    """
    inputs, output = equation.split("->")
    symbols = output + "".join(sorted(set(inputs) - set(output) - {","}))
    aligned = [_align(x, dims, symbols) for x, dims in zip(operands, inputs.split(","), strict=True)]
    total = sum(aligned[1:], start=aligned[0])
    return total.logsumexp(tuple(range(len(output), len(symbols)))) if len(symbols) > len(output) else total


def _align(x: Tensor, dims: str, symbols: str) -> Tensor:
    """`x` with its dims in the order of `symbols`, and size 1 for those that it lacks."""
    x = x.permute([dims.index(symbol) for symbol in symbols if symbol in dims])
    return x[tuple(slice(None) if symbol in dims else None for symbol in symbols)]


def transpose(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.permute(axes)


tensordot = Tensordot(einsum)
