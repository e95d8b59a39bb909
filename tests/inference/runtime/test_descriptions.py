"""Settings in words: alike where the settings are, other words where they are not."""

import functools
import operator

import numpy as np
import pytest
import torch

import ppvae
from ppvae.inference.runtime.descriptions import described, module_described
from ppvae.models import LinearVAE


def raised(exponent):
    return lambda done: done**exponent


def held(held_in):
    return lambda done: done * len(held_in)


def of_strings(value):
    return value in {"a", "b", "c", "d", "e"}


SAME = {
    "numbers": lambda: 0.1,
    "tensors": lambda: torch.arange(4.0),
    "arrays": lambda: np.arange(4.0),
    "objectives": lambda: ppvae.IWAE(3),
    "functions": lambda: raised(2),
    "functions that hold objects": lambda: held([1, 2]),
    "functions with sets": lambda: of_strings,
    "partials": lambda: functools.partial(torch.optim.AdamW, weight_decay=0.1),
    "classes": lambda: torch.optim.RMSprop,
    "built-in functions": lambda: torch.bernoulli,
    "checkpoints": lambda: ppvae.Checkpoint("run"),
    "batches": lambda: {"x": torch.ones(3), "beta": 0.5, "none": None},
    "objects": lambda: operator.itemgetter(1),
    "many numbers": lambda: list(range(100)),
}

OTHER = {
    "numbers": (0.1, 0.2),
    "types of numbers": (1, 1.0),
    "tensors": (torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])),
    "shapes": (torch.zeros(3), torch.zeros(3, 1)),
    "types": (torch.zeros(3), torch.zeros(3).double()),
    "objectives": (ppvae.IWAE(3), ppvae.IWAE(4)),
    "kinds of objectives": (ppvae.IWAE(3), ppvae.VIMCO(3)),
    "functions' code": (lambda done: 0.1**done, lambda done: 0.2**done),
    "what functions hold": (raised(1), raised(2)),
    "partials": (functools.partial(raised, exponent=1), functools.partial(raised, exponent=2)),
    "classes": (torch.optim.RMSprop, torch.optim.Adagrad),
    "built-in functions": (torch.bernoulli, torch.sqrt),
    "batches": ({"x": torch.ones(3)}, {"x": torch.ones(3), "beta": 0.5}),
    "many numbers": (list(range(100)), [*range(99), 7]),
    "held-out data": (ppvae.HeldOut(torch.ones(3)), ppvae.HeldOut(torch.zeros(3))),
    "patience": (ppvae.HeldOut(torch.ones(3)), ppvae.HeldOut(torch.ones(3), patience=2)),
}


@pytest.mark.parametrize("name", SAME)
def test_alike_for_what_is_made_alike(name):
    assert described("it", SAME[name]()) == described("it", SAME[name]())


@pytest.mark.parametrize("name", OTHER)
def test_other_words_for_other_settings(name):
    one, other = OTHER[name]
    assert described("it", one) != described("it", other)


def test_files_are_each_processs_own():
    assert described("it", ppvae.Checkpoint("a", every=3)) == described("it", ppvae.Checkpoint("b", every=3))
    assert described("it", ppvae.AIS(checkpoint="a")) == described("it", ppvae.AIS())


def test_a_pair_is_told_by_structure_and_by_contents():
    torch.manual_seed(0)
    one, other = LinearVAE(4, 2), LinearVAE(4, 2)
    assert module_described("pair", one, values=False) == module_described("pair", other, values=False)
    assert module_described("pair", one) != module_described("pair", other)
    other.load_state_dict(one.state_dict())
    assert module_described("pair", one) == module_described("pair", other)
    next(other.parameters()).requires_grad_(False)
    assert module_described("pair", one, values=False) != module_described("pair", other, values=False)
