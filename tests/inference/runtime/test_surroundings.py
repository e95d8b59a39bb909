"""Calls under modes of torch that are not theirs, and where no bar can be drawn."""

import pytest
import torch
from support.surroundings import CALLS, TERMINALS, X, pair, run_modes, run_terminals

import ppvae

QUICK = ("fit", "Trainer", "elbo", "check")
OTHERS = [name for name in CALLS if name not in QUICK]


@pytest.mark.parametrize("names", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow(60))])
def test_within_modes_calls_give_what_they_give_outside(names):
    found = run_modes(names)
    assert {name: told for name, told in found.items() if told not in ("works", "named")} == {}
    assert all(told == "works" for name, told in found.items() if "made in" not in name)


def test_the_callers_mode_stays():
    with torch.no_grad():
        ppvae.fit(pair(), X, epochs=1, progress=False)
        assert not torch.is_grad_enabled()
        assert not pair().log_weights(X).log_w.requires_grad
    one = pair()
    with torch.inference_mode():
        ppvae.elbo(one, X, progress=False)
        assert torch.is_inference_mode_enabled()


def test_mixed_precision_of_the_callers_is_left_and_stays():
    one, around = pair(), torch.autocast("cpu", torch.bfloat16)
    with around:
        inside = one.encode(X)
        assert torch.is_autocast_enabled("cpu")
    assert inside.mean.dtype == torch.float32
    assert torch.equal(inside.mean, one.encode(X).mean)


def test_a_transform_may_leave_autograd():
    def transformed(x):
        with torch.inference_mode():
            return x * 1.0

    plain, other = pair(), pair()
    ppvae.fit(plain, X, epochs=2, progress=False)
    ppvae.fit(other, X, epochs=2, progress=False, transform=transformed)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


@pytest.mark.slow(30)
def test_bars_that_cannot_be_drawn_end_no_run():
    assert run_terminals() == dict.fromkeys(TERMINALS, "works")
