"""Programs as CUDA graphs: what goes in and out of them, with a recorder that runs on a CPU."""

import logging
from functools import partial

import pytest
import torch
from support.compiled_runs import graph_on_a_cpu

from ppvae.inference.compiling import cuda_graph
from ppvae.inference.compiling.programs import as_graph, check_program

CPU = torch.device("cpu")


def program(count, x, y):
    count.add_(1)
    return [(x * y).sum() + torch.randn(()), x + y]


@pytest.fixture
def inputs():
    return [torch.zeros(()), torch.ones(3), torch.full((3,), 2.0)]


def test_results_are_the_programs_and_held_tensors_are_written_in_place(inputs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "recorded", graph_on_a_cpu)
    run = cuda_graph.captured(program, inputs, 2, CPU)
    count, x, _ = inputs
    assert count == 0  # as before

    x.fill_(5.0)  # held: read where it is
    torch.manual_seed(1)
    total, summed = run(count, x, torch.full((3,), 3.0))
    torch.manual_seed(1)
    assert total == 45 + torch.randn(())
    assert torch.equal(summed, torch.full((3,), 8.0))
    assert count == 1

    run(count, x, torch.full((3,), 4.0))
    assert count == 2
    assert torch.equal(summed, torch.full((3,), 9.0))  # overwritten


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_graph_that_does_something_else_is_not_used(error, inputs, monkeypatch, caplog):
    def recorded(run, rehearse, device):
        replay, found = graph_on_a_cpu(run, rehearse, device)
        return lambda: (replay(), found[0].add_(error)), found

    check = partial(check_program, inputs=inputs, eager=lambda: program(*inputs), device=CPU, num_held=2)
    monkeypatch.setattr(cuda_graph, "recorded", recorded)
    with caplog.at_level(logging.WARNING):
        run = as_graph(program, inputs, 2, CPU, check)
    assert (run is program) == ("not as a CUDA graph: the compiled bound is" in caplog.text) == bool(error)
    assert inputs[0] == 0  # as before
