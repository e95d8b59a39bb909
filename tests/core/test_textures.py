"""Digits on patterns: which digits meet, and that each inverts its pattern."""

import os

import pytest
import torch

from ppvae.datasets import load
from ppvae.textures import PATTERNS, patterns, textured


def seeded():
    return torch.Generator().manual_seed(0)


def test_digits_of_one_class_meet_and_each_comes_at_most_once_on_a_pattern():
    """Each image has its own number written in its pixels; against the bare patterns, the numbers can be read."""
    labels = torch.arange(300) % 7
    bits = torch.arange(300)[:, None].bitwise_and(2 ** torch.arange(9)) > 0
    images = bits.reshape(-1, 3, 3).float()
    x, y = textured(images, labels, 200, seeded())
    bare, _ = textured(torch.zeros_like(images), labels, 200, seeded())
    number = ((x != bare).flatten(2) * 2 ** torch.arange(9)).sum(-1)
    assert torch.equal(labels[number], y[:, None].expand(200, 5))
    assert all(len(column.unique()) == 200 for column in number.T)
    assert (number[:, 0] != number[:, 1]).double().mean() > 0.9


def test_patterns_have_their_periods_and_start_anywhere():
    drawn = dict(zip(PATTERNS, patterns(500, 12, seeded()).unbind(1), strict=True))
    for name, periods in {"stripes": (4, 1), "bars": (1, 4), "checks": (8, 8), "dots": (4, 4)}.items():
        for dim, period in zip((1, 2), periods, strict=True):
            assert torch.equal(drawn[name].narrow(dim, period, 12 - period), drawn[name].narrow(dim, 0, 12 - period))
    for name, share in {"stripes": 1 / 2, "bars": 1 / 2, "checks": 1 / 2, "dots": 1 / 4}.items():
        white = drawn[name][:, 0, 0].double().mean()
        assert abs(white - share) < 4 * (share * (1 - share) / 500) ** 0.5
    away = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
    assert PATTERNS["rings"](0 * away, away).tolist() == [False, False, True, True] * 2
    assert not PATTERNS["rings"](torch.tensor(3), torch.tensor(4))  # on the circle of radius 5


@pytest.mark.skipif(not os.environ.get("PPVAE_DATA"), reason="PPVAE_DATA is not set: there is no MNIST to read")
def test_textures_are_mnist_split_as_mnist_is():
    data, digits = load("textures", images=True), load("mnist")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10000, 2000, 2000]
    assert data.train.shape[1:] == data.shape == (5, 28, 28)
    assert set(data.test.unique().tolist()) == {0.0, 1.0}
    for part, num in {"train": 10000, "validation": 2000, "test": 2000}.items():
        assert torch.equal(data.labels[part], digits.labels[part][:num])
