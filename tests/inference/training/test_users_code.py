"""Whatever users' code does besides computing, training that is recorded is the eager one, to the last bit.

Where a record would not see it, training goes on uncompiled and says why; so it does where the step is compiled.
"""

import logging

import numpy as np
import pytest
import torch
from support.users_code import Linear, assert_equal, recorded_soon, trained
from torch import nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

import ppvae

count = 0


class Complex(Linear):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.randn(4))

    def more(self, x):
        turned = torch.fft.rfft(x.tanh()) * torch.polar(self.phase.exp(), self.phase)
        return torch.fft.irfft(turned, n=6) / 10


class Captured(Linear):
    """Reads a tensor that others write to."""

    def __init__(self):
        super().__init__()
        self.temperature = torch.tensor(1.0)

    def more(self, x):
        return 1 / self.temperature

    def cool(self, x):
        self.temperature.mul_(0.99)
        return x


class Scripted(Linear):
    """TorchScript holds its parameters in what is no dict."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.jit.script(nn.Sequential(self.encoder, nn.BatchNorm1d(4), nn.Dropout(0.1)))


class Remembers(Linear):
    """Keeps its last input, which it does not read again."""

    def more(self, x):
        self.last = x * 2
        return self.last.mean(-1, keepdim=True)


class Assigned(Linear):
    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(6))

    def encoded(self, x):
        if self.training:
            self.center = 0.9 * self.center + 0.1 * x.mean(0)
        return self.encoder(x - self.center)


class AssignedTensor(Assigned):
    def __init__(self):
        super().__init__()
        del self.center
        self.center = torch.zeros(6)


class Frozen(Linear):
    def __init__(self):
        super().__init__()
        self.target = nn.Parameter(torch.zeros(6), requires_grad=False)

    def more(self, x):
        if self.training:
            with torch.no_grad():
                self.target.lerp_(self.decoder.bias, 0.1)
        return self.target


class Counts(Linear):
    def __init__(self):
        super().__init__()
        self.counts = {"calls": 0}

    def more(self, x):
        self.counts["calls"] += self.training
        return self.counts["calls"] / 100


class CountsGlobally(Linear):
    def more(self, x):
        global count
        count += self.training
        return count / 100


class Checkpointed(Linear):
    def encoded(self, x):
        return checkpoint(lambda t: dropout(self.encoder(t), 0.1, self.training), x, use_reentrant=False)


class Hooked(Linear):
    def __init__(self):
        super().__init__()
        learned = (torch.arange(8) < 4).float()[:, None]
        self.encoder[0].weight.register_hook(lambda g: g * learned)


class Numpy(Linear):
    def more(self, x):
        return torch.as_tensor(np.tanh(x.detach().numpy()))


class Listed(Linear):
    def more(self, x):
        return torch.tensor([sum(row) for row in x.tolist()])[..., None] / 10 if x.dim() == 2 else 0.0


def numpy_schedule(pair, batch, step):
    weights = ppvae.weights.draw_weights(pair, batch, 2)
    return weights.log_w.mean(0), weights.log_p.mean() - np.clip(step / 20, 0.1, 1) * weights.log_q.mean()


class CountingObjective:
    calls = 0

    def __call__(self, pair, batch, step):
        self.calls += 1
        weights = ppvae.weights.draw_weights(pair, batch, 2)
        return weights.log_w.mean(0), weights.log_p.mean() - min(1.0, self.calls / 50) * weights.log_q.mean()


def clamping(parameters, lr):
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)

    @torch.no_grad()
    def clamp(optimizer, args, kwargs):
        for p in optimizer.param_groups[0]["params"]:
            p.clamp_(-0.3, 0.3)

    optimizer.register_step_post_hook(clamp)
    return optimizer


class Own(torch.optim.Adam):
    """With a state of its own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr, fused=True)
        self.taken = 0

    def step(self, closure=None):
        self.taken += 1
        for group in self.param_groups:
            group["weight_decay"] = 0.1 * (self.taken % 3)
        return super().step(closure)


RECORDED = {
    "complex numbers": (Complex, {}),
    "a tensor that others write to": (Captured, {"transform": Captured.cool}),
    "a scripted network": (Scripted, {}),
    "what is kept, and not read again": (Remembers, {}),
    "double precision with a schedule": (
        lambda: Linear().double(),
        {"objective": ppvae.ELBO(beta=lambda step: min(1.0, 0.1 + step / 30))},
    ),
    "a hook of the optimizer": (Linear, {"optimizer": clamping}),
    "an optimizer with a state of its own": (Linear, {"optimizer": Own}),
}
UNCOMPILED = {
    "a buffer that is assigned": (Assigned, {}, "center: found a buffer that is assigned"),
    "a tensor that is assigned": (AssignedTensor, {}, "AssignedTensor.center: found a Tensor"),
    "a frozen parameter that is written to": (Frozen, {}, "Frozen.target: found a Parameter that a call writes to"),
    "a dict that counts": (Counts, {}, "Counts.counts: calls: found"),
    "a global that counts": (CountsGlobally, {}, "global count: found"),
    "a part that is run again for its gradient": (Checkpointed, {}, "draws other random numbers"),
    "a hook of a gradient": (Hooked, {}, "encoder.0.weight: found a hook"),
    "NumPy": (Numpy, {}, "np.tanh(x.detach().numpy())"),
    "a list of a tensor's numbers": (Listed, {}, "x.tolist()"),
    "NumPy in the objective": (Linear, {"objective": numpy_schedule}, "data-dependent"),
    "an objective that counts": (Linear, {"objective": CountingObjective}, "CountingObjective.calls: found"),
}


@pytest.fixture
def made(monkeypatch):
    return recorded_soon(monkeypatch)


@pytest.fixture(autouse=True)
def counts_from_zero():
    global count
    count = 0


def eager(make, settings):
    """A run uncompiled; what is global is as it was before it."""
    global count
    found = trained(make, False, **settings)
    count = 0
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.parametrize("name", RECORDED)
def test_no_bit_differs_where_it_is_recorded(name, made):
    make, settings = RECORDED[name]
    expected = eager(make, settings)
    assert_equal(expected, trained(make, "auto", **settings))
    assert len(made) == 1


@pytest.mark.filterwarnings("ignore:.* is run by rows")
@pytest.mark.parametrize("name", UNCOMPILED)
def test_no_bit_differs_where_a_record_would_not_see_it(name, made, caplog):
    make, settings, why = UNCOMPILED[name]
    expected = eager(make, settings)
    with caplog.at_level(logging.INFO, "ppvae"):
        assert_equal(expected, trained(make, "auto", **settings))
    assert not made
    assert why in caplog.text


def test_a_batch_of_another_layout_is_not_the_programs(made):
    """Its elements come in another order in memory."""

    class Images(Linear):
        def encoded(self, x):
            return self.encoder(x.flatten(1))

        def model(self, x):
            super().model(x.flatten(1))

    def turned(x):
        x = x.view(-1, 2, 3)
        return x.transpose(1, 2).contiguous().transpose(1, 2) if torch.rand(()) < 0.3 else x

    def transform(self, x):
        return turned(x)

    eager = trained(Images, False, transform=transform)
    assert_equal(eager, trained(Images, "auto", transform=transform))
    assert len(made) == 1
