"""Runs of training, compiled or not, that must agree."""

import logging

import torch

import ppvae
from ppvae.inference.compiling import compiler, cuda_graph

DATA = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))


def run_as_traced(monkeypatch):
    """Programs are the recorded operations, run one by one.

    That tests all but what the compiler makes of them, in a tenth of the time.
    """

    def program(trace, inputs, device):
        return torch.no_grad()(trace().forward)

    monkeypatch.setattr(compiler, "program", program)


def graph_on_a_cpu(run, rehearse, device):
    """A recorder whose results, like a graph's, are always in the same place."""
    before = torch.get_rng_state()
    for _ in range(cuda_graph.WARM_UP):
        rehearse()
    torch.set_rng_state(before)
    return lambda: [kept.copy_(new) for kept, new in zip(found, run(), strict=True)], (found := rehearse())


def trained(make, objective, compile, **settings):
    """A fresh pair after twelve steps: three epochs of three batches of 20, and one of 10."""
    torch.manual_seed(1)
    pair = make()
    settings = {"steps": 12, "batch_size": 20, "lr": 1e-2, "progress": False} | settings
    return pair, ppvae.fit(pair, settings.pop("data", DATA), objective, compile=compile, **settings)


def assert_same(make, objective, caplog, **settings):
    with caplog.at_level(logging.WARNING):
        (eager, a), (compiled, b) = (trained(make, objective, compile, **settings) for compile in (False, True))
    assert not caplog.records, caplog.text
    for (name, p), q in zip(eager.state_dict().items(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    bounds = (torch.tensor(run.history["bound_per_step"]) for run in (a, b))
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-4)
