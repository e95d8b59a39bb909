"""Complex parameters learn as their real and imaginary parts do; an optimizer's settings may be tensors."""

import functools

import pytest
import torch
from support.small_pairs import Busy
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR

import ppvae
from ppvae import Checkpoint, ParameterGroups, StepOptions

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)).double()
START = torch.randn(4, 2, generator=torch.Generator().manual_seed(2)).double()


class Spectrum(Busy):
    """The encoder sees filtered data; the filter is one complex parameter, or has two real ones."""

    def __init__(self, complex_one):
        super().__init__()
        self.double()
        self.complex_one = complex_one
        if complex_one:
            self.whole = nn.Parameter(torch.view_as_complex(START.clone()))
        else:
            self.real, self.imaginary = (nn.Parameter(START[:, i].clone()) for i in (0, 1))

    def guide(self, x):
        factor = self.whole if self.complex_one else torch.complex(self.real, self.imaginary)
        super().guide(torch.fft.ifft(torch.fft.fft(x) * factor).real)


def spectrum(complex_one=True, seed=0):
    torch.manual_seed(seed)
    return Spectrum(complex_one)


def trained(pair, epochs=8, **settings):
    given = {"epochs": epochs, "batch_size": 20, "lr": 0.05, "progress": False} | settings
    return torch.as_tensor(ppvae.fit(pair, X, **given).history["bound_per_step"])


SETTINGS = [
    {},
    {"optimizer": Adam, "options": StepOptions(clip_norm=0.5, ema=0.9)},
    {"optimizer": ParameterGroups({"encoder": 2.0}, "sgd", {"momentum": 0.9})},
    {"epochs": 50},  # recorded from step 101 on
    pytest.param({"compile": True}, marks=pytest.mark.slow(10)),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_complex_parameter_learns_as_its_parts_do(settings):
    one, two = spectrum(), spectrum(complex_one=False)
    torch.testing.assert_close(trained(one, **settings), trained(two, **settings), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.complex(two.real, two.imaginary), one.whole, rtol=1e-6, atol=1e-8)


def test_a_complex_gradient_that_is_not_finite_is_refused():
    trainer = ppvae.Trainer(spectrum())
    trainer.step(X)
    with torch.no_grad():
        trainer.pair.whole[1] = complex(1.0, float("inf"))
    with pytest.raises(ppvae.NonFiniteError):
        trainer.step(X)


def assert_goes_on(path, **settings):
    """A run that goes on from a file is the one that was never stopped; a float64 tensor holds Python's number."""
    whole = trained(spectrum(), **settings)
    trained(spectrum(), 5, checkpoint=Checkpoint(path, every=4), **settings)
    torch.testing.assert_close(
        trained(spectrum(seed=1), checkpoint=path, resume=True, **settings), whole, rtol=0, atol=0
    )
    return whole


def test_a_file_holds_complex_parameters(tmp_path):
    assert_goes_on(tmp_path / "run")


@pytest.mark.parametrize("scheduler", [None, ConstantLR, functools.partial(ExponentialLR, gamma=0.5)])
def test_a_learning_rate_may_be_a_tensor(scheduler, tmp_path):
    def of_tensor(parameters, lr):
        return Adam(parameters, lr=torch.tensor(lr, dtype=torch.float64))

    found = assert_goes_on(tmp_path / "run", optimizer=of_tensor, schedule=scheduler)
    expected = trained(spectrum(), optimizer=Adam, schedule=scheduler)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
