"""Modes of stacked digits, told by a classifier of one channel: a lone mode, and the floor of a perfect sampler."""

import math
import os

import pytest
import torch

import ppvae
from ppvae import Modes
from ppvae.datasets import load


def one_hot_pixels(x):
    """Its own scores, where each channel is a one-hot vector."""
    return x


def test_a_sampler_of_one_mode_finds_one_and_is_log_1000_away():
    modes = Modes.stacked(one_hot_pixels)
    x = torch.nn.functional.one_hot(torch.tensor([4, 1, 7]), 10).expand(500, 3, 10)
    for event in (x, x.flatten(1)):
        assert modes.label(event).unique().tolist() == [417]
        found = modes.found(modes.label(event))
        assert (found["modes_found"], found["in_modes"]) == (1, 1)
        assert found["modes_kl"] == pytest.approx(math.log(1000))


def test_other_numbers_of_classes_and_channels():
    modes = Modes.stacked(one_hot_pixels, num_classes=3, num_channels=2)
    classes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    assert modes.num == 9
    assert torch.equal(modes.label(torch.nn.functional.one_hot(classes, 3)), torch.arange(9))


@pytest.mark.skipif(not os.environ.get("PPVAE_DATA"), reason="PPVAE_DATA is not set: there is no MNIST to read")
@pytest.mark.slow(7)
def test_held_out_stacked_digits_are_at_the_floor():
    """By a classifier that is right about more than 95% of digits, and so about the third power of that of modes."""
    digits, data = load("mnist"), load("stacked")
    torch.manual_seed(0)
    network = ppvae.networks.mlp(784, [128], 10, torch.nn.ReLU)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for index in torch.randint(len(digits.train), (1000, 100)):
        loss = torch.nn.functional.cross_entropy(network(digits.train[index]), digits.labels["train"][index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classes, said = digits.labels["test"], network(digits.test).argmax(1)
    confusion = torch.stack([said[classes == c].bincount(minlength=10) / (classes == c).sum() for c in range(10)])
    accuracy = confusion.diag().mean().item()  # of classes that are equally probable
    assert accuracy > 0.95

    modes = Modes.stacked(network)
    labels, num = modes.label(data.test), len(data.test)
    right = (labels == data.labels["test"]).double().mean().item()
    assert abs(right - accuracy**3) < 4 * (right * (1 - right) / num) ** 0.5
    found, floor = modes.found(labels), modes.floor(num)
    share = confusion.mean(0)
    of_classifier = 3 * (share * (share * 10).log()).sum().item()  # what its confusions add
    assert of_classifier < 0.01
    # 2 n KL is about chi-squared with 999 degrees of freedom, and the number of lacking modes about Poisson.
    error = (2 * 999) ** 0.5 / (2 * num)
    assert abs(found["modes_kl"] - floor["modes_kl"] - of_classifier) < 4 * error
    assert abs(found["modes_found"] - floor["modes_found"]) < 4 * (1000 - floor["modes_found"]) ** 0.5
