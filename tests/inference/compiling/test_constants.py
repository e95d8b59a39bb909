"""What a recorded function computes anew at each call, though it depends on nothing, is computed once."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.inference.compiling.constants import with_constants

X = torch.arange(6.0).view(2, 3)


def half_filled(x):
    filled = torch.zeros(3)
    filled[:2].add_(1.0)
    return x * filled


def gradient_of_a_mean(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(x.square().mean(), x)[0]


CONSTANT = {
    "a number": (lambda x: x + torch.tensor(2.0).log(), ["add"]),
    "of its shape": (lambda x: x * (torch.ones_like(x) * 3).exp(), ["mul"]),
    "of its shape alone": (lambda x: (torch.full_like((x + 1).sin(), 2.0).expand(4, 2, 3) * x).sum(), ["mul", "sum"]),
    "split": (lambda x: x[0] * torch.arange(4.0).chunk(2)[1][0], ["select", "mul"]),
    "its own, and the start of a gradient": (gradient_of_a_mean, ["pow", "mul", "mul"]),
}
CHANGING = {
    "filled, then written to": (half_filled, ["zeros", "slice", "add_", "mul"]),
    "drawn": (lambda x: x + torch.rand(3), ["rand", "add"]),
    "returned": (lambda x: torch.zeros(3).expand(2, 3), ["zeros", "expand"]),
}


def left(function):
    """A function's graph, and the operations that are left of it, but for detaching, in any version's way."""
    graph = make_fx(function)(X)
    with_constants(graph)
    names = [node.target.__name__.partition(".")[0] for node in graph.graph.nodes if node.op == "call_function"]
    return graph, [name for name in names if name not in ("detach", "alias")]


@pytest.mark.parametrize("name", CONSTANT | CHANGING)
def test_what_is_the_same_at_each_call_is_left_out_and_no_bit_differs(name):
    function, operations = (CONSTANT | CHANGING)[name]
    graph, names = left(function)
    for x in (X, X + 1):
        for _ in range(2):
            torch.manual_seed(0)
            expected = function(x)
            torch.manual_seed(0)
            assert torch.equal(graph(x), expected)
    assert names == operations


def test_what_is_returned_is_new_at_each_call():
    graph, _ = left(lambda x: torch.ones(3))
    graph(X).zero_()
    assert torch.equal(graph(X), torch.ones(3))
