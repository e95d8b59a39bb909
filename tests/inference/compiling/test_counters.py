"""An optimizer's counters are advanced by one addition, and stay its own."""

import copy

import pytest
import torch

from ppvae.inference.compiling.counters import shared
from ppvae.inference.compiling.programs import operations


def advance(*counters):
    torch._foreach_add_(list(counters[:2]), 1)
    torch._foreach_add_(list(counters[2:]), 0.5)
    return []


@pytest.fixture
def counters():
    return [torch.tensor(float(i)) for i in range(5)]


def test_one_addition_advances_all_of_a_list(counters):
    run = operations(advance, counters)
    targets = [node.target for node in run.__self__.graph.nodes if node.op.startswith("call")]
    assert targets == ["add_", "add_"]
    for _ in range(3):
        run(*counters)
    assert counters == [3.0, 4.0, 3.5, 4.5, 5.5]


def test_each_is_still_a_tensor_of_its_own(counters):
    together = shared(counters)
    counters[1].add_(10)
    assert together.tolist() == [0.0, 11.0, 2.0, 3.0, 4.0]
    assert copy.deepcopy(counters[1]) == 11
    torch._foreach_add_(counters, 1)
    assert together.tolist() == [1.0, 12.0, 3.0, 4.0, 5.0]


def test_counters_that_share_memory_stay_there(counters):
    """As another graph advances them there."""
    together = shared(counters)
    assert shared(counters).data_ptr() == together.data_ptr()
    assert shared(counters[::2]) is None
    again = operations(advance, counters[:4])
    again(*counters[:4])
    assert together.tolist() == [1.0, 2.0, 2.5, 3.5, 4.0]


def test_lists_of_other_tensors_are_added_to_as_they_are():
    def function(x, y):
        torch._foreach_add_([x, y], 1)
        return []

    x, y = torch.zeros(2), torch.zeros(3)
    run = operations(function, [x, y])
    run(x, y)
    assert x.tolist() == [1, 1]
    assert y.tolist() == [1, 1, 1]
