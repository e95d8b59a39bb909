"""What each entry sees: earlier ones alone, and, where there is no blind spot, all of those within reach."""

import pytest
import torch
from support.masked_networks import BITS, NETWORKS, moved

from ppvae.models import DiagonalBiLSTM, GatedPixelCNN, PixelCNN, RowLSTM

pytestmark = pytest.mark.usefixtures("float64")


def sees(network, num_images=3):
    """`[D, D]`: whether the logits of an entry move with the input of another, both in the network's order."""
    entries = [torch.tensor(entry) for entry in network.order]
    strides = torch.tensor([1, *reversed(network.event_shape[1:])]).cumprod(0).flip(0)
    place = torch.stack([(entry * strides).sum() for entry in entries])
    index = torch.randint(network.alphabet.size, (num_images, *network.event_shape))
    inputs = network.alphabet.encode(index, torch.float64)
    found = 0
    for row in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda t: network(t[None])[0].flatten(0, -2), row)
        by_entry = jacobian.abs().sum(1).reshape(len(entries), network.alphabet.num_inputs, -1).sum(1)
        found = found + by_entry[place][:, place]
    return found > 0


def open_(network):
    """With parameters positive and small, so that no unit is shut or saturated, and nothing cancels."""
    for p in network.parameters():
        p.data.abs_().mul_(0.1)
    return network


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_jacobian_is_strictly_lower_triangular_in_the_order(name, seed):
    found = sees(moved(name, seed))
    assert not found.triu().any()
    assert found.any()


@pytest.mark.parametrize("name", [name for name in BITS if name not in ("PixelCNN", "Row LSTM")])
def test_every_earlier_entry_is_seen(name):
    found = sees(open_(moved(name)))
    assert torch.equal(found, torch.ones_like(found).tril(-1))


def test_with_fewer_units_than_entries_some_are_missed():
    """Four units, of degrees 0, 1, 2 and 3 of five: the last entry sees three."""
    found = sees(open_(moved("MADE of levels, narrow")))
    assert found.sum(1).tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("name", ["PixelCNN", "Gated PixelCNN", "Row LSTM", "Diagonal BiLSTM", "PixelSNAIL"])
def test_of_its_own_pixel_a_channel_sees_the_earlier_ones(name):
    network = open_(moved(f"{name} in color"))
    C = network.event_shape[0]
    found = sees(network)
    for start in range(0, len(found), C):
        own = found[start : start + C, start : start + C]
        assert torch.equal(own, torch.ones_like(own).tril(-1))
    assert found[-C:, : len(found) - C].all(), "of other pixels all channels"


def seen_by(network, row, column):
    """Which pixels of an image one sees."""
    height, width = network.event_shape[-2:]
    return sees(network)[row * width + column].reshape(height, width)


@pytest.mark.parametrize(("radius", "layer_radius", "layers"), [(1, 1, 2), (2, 1, 2), (2, 0, 2), (1, 1, 3)])
def test_the_gated_network_sees_all_within_reach(radius, layer_radius, layers):
    network = open_(GatedPixelCNN((1, 7, 8), 2, 8, layers, radius, layer_radius))
    reach, row, column = radius + layer_radius * (layers - 1), 4, 3
    expected = torch.zeros(7, 8, dtype=torch.bool)
    expected[max(row - reach, 0) : row, max(column - reach, 0) : column + reach + 1] = True
    expected[row, max(column - reach, 0) : column] = True
    assert torch.equal(seen_by(network, row, column), expected)


def test_stacked_masks_leave_a_blind_spot():
    """To the right, a row's pixels are seen only as far as rows lie between: one step up for each to the right."""
    found = seen_by(open_(PixelCNN((1, 6, 9), 2, 8, 5, 1)), 5, 2)
    expected = torch.tensor([[column <= 2 + 5 - row for column in range(9)] for row in range(6)])
    expected[5, 2:] = False
    assert torch.equal(found, expected)
    gated = seen_by(open_(GatedPixelCNN((1, 6, 9), 2, 8, 6, 1)), 5, 2)
    assert gated[:5].all()


def test_a_row_lstm_sees_a_triangle():
    """One column more to the right for each row further up."""
    found = seen_by(open_(RowLSTM((1, 6, 9), 2, 8, 1, 1)), 5, 2)
    for row in range(5):
        right = 2 + 5 - row  # the first convolution's radius, and one step for each row above the nearest
        assert found[row, : right + 1].all()
        assert not found[row, right + 1 :].any()
    assert found[5].tolist() == [True] * 2 + [False] * 7


def test_diagonals_see_all_earlier_pixels_of_a_wide_image():
    found = seen_by(open_(DiagonalBiLSTM((1, 4, 9), 2, 8, 1, 1)), 3, 4)
    assert found[:3].all()
    assert found[3, :4].all()
    assert not found[3, 4:].any()


def test_without_reach_nothing_is_seen():
    assert not sees(open_(PixelCNN((1, 3, 3), 2, 8, 2, 0, 0))).any()
    assert not sees(open_(GatedPixelCNN((1, 3, 3), 2, 8, 2, 0, 0))).any()
