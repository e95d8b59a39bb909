"""Gradient checkpointing: the same gradients, the same running statistics, less memory."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ppvae.recomputation import recomputed


def body():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 32, 1), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 4, 3, padding=1), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers)


def through(networks, x, call):
    for network in networks:
        x = x + call(network, x)
    return x


def plainly(network, x):
    return network(x)


def peak_memory(function):
    """The most bytes that torch held at once while the function ran, above what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return torch.tensor([size for _, size in sorted(changes)]).cumsum(0).max().item()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_and_statistics_are_the_same(training):
    x, results = torch.randn(16, 4, 6, 6), []
    for call in (plainly, recomputed):
        network = body().train(training)
        out = through([network], x, call)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(network.parameters())), *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_parameters_are_those_of_the_call():
    """Given others by `functional_call`, the network goes by them in the backward pass too."""
    x, network = torch.randn(16, 4, 6, 6), body()

    class Wrapped(nn.Module):
        def __init__(self, call):
            super().__init__()
            self.network, self.call = network, call

        def forward(self, x):
            return self.call(self.network, x)

    given = {f"network.{name}": (2 * p).detach().requires_grad_() for name, p in network.named_parameters()}
    found = []
    for call in (plainly, recomputed):
        out = functional_call(Wrapped(call), given, (x,))
        found.append(torch.autograd.grad(out.square().sum(), list(given.values())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][0].abs().max() > 0


def test_memory_is_that_of_one_network_at_a_time():
    networks, x = [body() for _ in range(8)], torch.randn(64, 4, 8, 8)

    def step(call):
        torch.autograd.grad(through(networks, x, call).sum(), [p for n in networks for p in n.parameters()])

    step(plainly)
    plain, again = (peak_memory(lambda call=call: step(call)) for call in (plainly, recomputed))
    assert again < plain / 3
