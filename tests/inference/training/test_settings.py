"""The small groups of settings, and what training returns: checked where they are made, copied and pickled whole."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from support.small_pairs import Shift, X, bound

import ppvae
from ppvae import Checkpoint, HeldOut, StepOptions
from ppvae.models import LinearVAE

COPIES = {"pickled": lambda thing: pickle.loads(pickle.dumps(thing)), "copied": copy.deepcopy}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HeldOut(X, patience=0), ValueError, "patience: found 0, expected at least 1"),
        (lambda: Checkpoint("file", every=0), ValueError, "every: found 0, expected at least 1"),
        (lambda: Checkpoint(5), TypeError, "path: found 5, expected a file's path"),
    ],
)
def test_bad_settings_are_refused_where_they_are_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_settings_are_frozen_and_show_no_data():
    with pytest.raises(FrozenInstanceError):
        StepOptions().ema = 0.9
    assert repr(HeldOut(X, patience=3)) == "HeldOut(patience=3, keep_best=False)"


def test_data_alone_are_held_out_without_more():
    runs = [ppvae.fit(Shift(), X, bound, epochs=3, lr=0.1, held_out=h, progress=False) for h in (X, HeldOut(X))]
    assert runs[0].history["held_out"].tolist() == runs[1].history["held_out"].tolist()
    assert runs[0].pair.shift == runs[1].pair.shift


@pytest.mark.parametrize("how", COPIES)
def test_settings_are_pickled_and_copied(how):
    options = StepOptions(clip_norm=1.0, ema=0.9, autocast=torch.bfloat16)
    assert COPIES[how](options) == options
    assert COPIES[how](Checkpoint("file", every=3)) == Checkpoint("file", every=3)
    held_out = COPIES[how](HeldOut({"x": X}, patience=3, keep_best=True))
    assert torch.equal(held_out.data["x"], X)
    assert (held_out.patience, held_out.keep_best) == (3, True)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("objective", [None, ppvae.IWAE(2)], ids=["elbo", "iwae"])
def test_what_fit_returns_is_pickled_and_copied(objective, how):
    run = ppvae.fit(LinearVAE(4, 2), torch.randn(30, 4), objective, epochs=2, progress=False)
    again = COPIES[how](run)
    assert repr(again) == repr(run)
    assert again.history["bound_per_step"].tolist() == run.history["bound_per_step"].tolist()
    for p, q in zip(run.pair.parameters(), again.pair.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p is not q
