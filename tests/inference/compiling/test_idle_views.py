"""Views that show a tensor as it is are left out of what is recorded, and the others stay."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.inference.compiling.idle_views import without_idle_views

WIDE = torch.arange(6.0).view(2, 3)
IDLE = {
    "transposed twice": lambda x: x.t().t(),
    "detached": lambda x: x.detach(),
    "expanded to its own shape": lambda x: x.expand(2, 3),
    "flattened and back": lambda x: x.view(6).view(2, 3),
    "all rows": lambda x: x[:],
}
NEEDED = {
    "transposed": lambda x: x.t(),
    "first row": lambda x: x[0],
    "later rows": lambda x: x[1:],
    "repeated": lambda x: x[0].expand(4, 3),
    "other type": lambda x: x.view(torch.int32),
    "square, transposed": lambda x: x[:, :2].t(),
}


def left(function, x):
    """What is left of a function that doubles a view."""
    graph = make_fx(lambda x: function(x) * 2)(x)
    without_idle_views(graph)
    assert torch.equal(graph(x + 1), function(x + 1) * 2)
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", IDLE)
def test_an_idle_view_is_left_out(name):
    assert left(IDLE[name], WIDE) == ["aten.mul.Tensor"]


@pytest.mark.parametrize("name", NEEDED)
def test_other_views_stay(name):
    assert len(left(NEEDED[name], WIDE)) > 1


def test_a_transposed_constant_is_not_taken_for_itself():
    """All its strides are zero, as all its entries are one in memory; another input's may not be."""
    constant = torch.ones(()).expand(3, 3)
    graph = make_fx(lambda x: x.t() * 2)(constant)
    without_idle_views(graph)
    x = torch.arange(9.0).view(3, 3)
    assert torch.equal(graph(x), x.t() * 2)


def test_a_view_that_is_written_to_writes_to_what_it_shows():
    def function(x):
        x.t().t().add_(1)
        return x * 2

    graph = make_fx(function)(WIDE.clone())
    without_idle_views(graph)
    given = WIDE.clone()
    assert torch.equal(graph(given), (WIDE + 1) * 2)
    assert torch.equal(given, WIDE + 1)
