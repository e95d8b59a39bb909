"""Stacked digits: each channel shows an image of its class, all modes are equally probable, and splits stay apart."""

import os

import pytest
import torch

from ppvae.datasets import load
from ppvae.stacks import mode_of, stacked


def test_modes_read_as_numbers():
    assert mode_of(torch.tensor([[4, 1, 7], [0, 0, 9]]), 10).tolist() == [417, 9]
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    assert torch.equal(mode_of(pairs, 3), torch.arange(9))


def test_each_channel_shows_any_image_of_its_class(assert_mean):
    """Of three classes with 1, 2 and 5 images; each image has its own number in its pixels."""
    labels = torch.tensor([2, 0, 1, 2, 2, 1, 2, 2])
    images = torch.arange(8.0)[:, None, None].expand(8, 2, 2)
    x, mode = stacked(images, labels, 20_000, torch.Generator().manual_seed(0), channels=2)
    assert x.shape == (20_000, 2, 2, 2)
    number = x[:, :, 0, 0].long()
    assert torch.equal(mode_of(labels[number], 3), mode)
    assert_mean(torch.nn.functional.one_hot(mode, 9).double(), torch.full((9,), 1 / 9).double())
    share = 1 / (3 * labels.bincount()[labels].double())
    for channel in number.T:
        assert_mean(torch.nn.functional.one_hot(channel, 8).double(), share)


@pytest.mark.skipif(not os.environ.get("PPVAE_DATA"), reason="PPVAE_DATA is not set: there is no MNIST to read")
def test_splits_are_stacked_of_the_same_splits_of_mnist():
    data, digits = load("stacked"), load("mnist")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20_000, 5000, 5000]
    assert data.test.shape[1:] == (data.num_features,) == (3 * 28 * 28,)
    projection = torch.randn(784, dtype=torch.float64)  # tells images apart
    for part in ("train", "validation", "test"):
        known = getattr(digits, part).double() @ projection
        order = known.argsort()
        found = getattr(data, part).unflatten(1, (3, 784)).double() @ projection
        index = order[torch.searchsorted(known[order], found - 1e-9)]
        torch.testing.assert_close(known[index], found)
        assert torch.equal(mode_of(digits.labels[part][index], 10), data.labels[part])
