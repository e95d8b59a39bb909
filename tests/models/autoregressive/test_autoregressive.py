"""The distribution of each network: it sums to one, its draws are its own, and kept columns change none of them."""

import pytest
import torch
from support.masked_networks import BITS, NETWORKS, condition, everything, moved, naive
from support.slow import some_slow
from torch.testing import assert_close

from ppvae.models import (
    MADE,
    Autoregressive,
    DiagonalBiLSTM,
    GatedPixelCNN,
    LinearCodes,
    PixelCNN,
    PixelSNAIL,
    RowLSTM,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_of_everything_sum_to_one(name, seed):
    network = moved(name, seed)
    log_p = Autoregressive(network).log_prob(everything(network))
    assert_close(log_p.logsumexp(0), torch.tensor(0.0), atol=1e-12, rtol=0)
    assert log_p.std() > 0.1


@pytest.mark.parametrize("name", some_slow(NETWORKS, 4, lambda name: "LSTM" not in name))
def test_draws_have_the_probabilities_that_are_said(name):
    """Pearson's statistic of 20,000 draws, over all that is drawn more than five times on average."""
    network = moved(name)
    p, x, num = Autoregressive(network), everything(network), 20_000
    expected = num * p.log_prob(x).exp().detach()
    base = network.alphabet.size ** torch.arange(len(network.order) - 1, -1, -1)
    index = (network.alphabet.index(p.sample((num,))).flatten(1) * base).sum(1)
    found = torch.bincount(index, minlength=len(x))
    often = expected > 5
    deviation = ((found - expected)[often].square() / expected[often]).sum()
    degrees = int(often.sum()) - 1
    assert degrees > 15
    assert abs(deviation - degrees) < 4 * (2 * degrees) ** 0.5


def test_linear_codes_draw_what_a_pass_over_all_entries_draws():
    """And start at the frequencies of data, position by position."""
    network = LinearCodes((2, 3), 4)
    for p in network.parameters():
        torch.nn.init.normal_(p)
    p = Autoregressive(network)
    torch.manual_seed(1)
    fast = p.sample((40,))
    torch.manual_seed(1)
    assert torch.equal(naive(p, 40), fast)
    network.weight.data.zero_()
    network.init_from(fast)
    counts = torch.stack([(fast == k).sum(0) + 1 for k in range(4)], -1)
    assert_close(p.log_prob(fast), (counts / 44).log().gather(-1, fast.movedim(0, -1)).movedim(-1, 0).sum((1, 2)))


@pytest.mark.parametrize("num_condition", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_drawing_column_by_column_is_drawing_naively(name, num_condition):
    """The same data, bit for bit, from the same seed."""
    network = moved(name, num_condition=num_condition)
    p = Autoregressive(network, condition(network, 4, 3) if num_condition else None)
    torch.manual_seed(1)
    fast = p.sample((40,))
    torch.manual_seed(1)
    assert torch.equal(naive(p, 40), fast)
    assert len(fast.reshape(-1, len(network.order)).unique(dim=0)) > 10


def test_a_large_image_too():
    """With fields of view that end within it."""
    for network in (
        PixelCNN((1, 9, 7), 4, 8, 3, 2, num_condition=2),
        GatedPixelCNN((9, 7), 4, 8, 3, 2),
        PixelSNAIL((9, 7), 4, 8),
        RowLSTM((1, 9, 7), 4, 8, 2, 2, num_condition=2),
        DiagonalBiLSTM((9, 7), 4, 8, 2, 2),
    ):
        p = Autoregressive(network, torch.randn(2, 1, 1) if network.num_condition else None)
        torch.manual_seed(1)
        fast = p.sample((5,))
        torch.manual_seed(1)
        assert torch.equal(naive(p, 5), fast)


@pytest.mark.parametrize("name", NETWORKS)
def test_leading_dimensions(name):
    """A batch of conditions gives what each gives by itself, for one image or for as many; so do copies of it."""
    network = moved(name, num_condition=3)
    h = condition(network, 4, 5)
    x = Autoregressive(network, h).sample()
    assert x.shape == (4, 5, *network.event_shape)
    each = torch.stack([Autoregressive(network, h[k]).log_prob(x[k]) for k in range(4)])
    assert_close(Autoregressive(network, h).log_prob(x), each)
    shared = Autoregressive(network, h).log_prob(x[0])
    assert_close(shared[2], Autoregressive(network, h[2]).log_prob(x[0]))
    assert_close(Autoregressive(network, h[0]).expand([4, 5]).log_prob(x[0]), shared[:1].expand(4, 5))
    assert each.std(0).min() > 0.01


@pytest.mark.parametrize("name", [name for name in NETWORKS if "MADE" not in name])
def test_a_condition_that_is_the_same_everywhere(name):
    network = moved(name, num_condition=2)
    h, x = torch.randn(3, 2, 1, 1), Autoregressive(moved(name)).sample((3,))
    everywhere = h.expand(3, 2, *network.event_shape[-2:])
    assert_close(Autoregressive(network, h).log_prob(x), Autoregressive(network, everywhere).log_prob(x))


@pytest.mark.parametrize("name", BITS)
def test_start_at_the_frequencies_of_data(name):
    """Without weights, the distribution is that of the frequencies, with one added to each count."""
    network = moved(name)
    for p in network.parameters():
        p.data.zero_()
    x = (torch.rand(98, *network.event_shape) < 0.2).double()
    network.init_from(x)
    ones = (x.sum(0) + 1) / 100
    if "MADE" not in name:
        ones = ((x.sum(0) + 1).mean() / 100).expand_as(ones)
    expected = torch.distributions.Bernoulli(ones).log_prob(x).flatten(1).sum(1)
    assert_close(Autoregressive(network).log_prob(x), expected)


def test_refuses():
    image, vector = PixelCNN((1, 3, 3), 2, 8, 1), MADE(4, 2, [5], num_condition=2)
    x = torch.zeros(2, 1, 3, 3)
    x[1, 0, 0, 2] = 0.5
    with pytest.raises(ValueError, match=r"found 0.5 at index \(1, 0, 0, 2\), expected one of 2 gray levels"):
        Autoregressive(image, validate_args=True).log_prob(x)
    with pytest.raises(ValueError, match=r"found 3 at index \(0, 0\), expected one of 3 codes, 0 to 2; set levels="):
        Autoregressive(PixelCNN((2, 2), 3, 8, 1), validate_args=True).log_prob(torch.full((2, 2), 3))
    with pytest.raises(ValueError, match=r"h: found shape \[5, 2\], expected None, as the network has no condition"):
        Autoregressive(image, torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"h: found None, expected a condition \[\*, 2\], as the network has one"):
        Autoregressive(vector)
    with pytest.raises(ValueError, match=r"h: found shape \[5, 3\], expected \[\*, 2\], as the network's"):
        Autoregressive(vector, torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"h: found shape \[2, 4, 4\], expected \[\*, 2, 3, 3\]"):
        Autoregressive(PixelCNN((1, 3, 3), 2, 8, 1, num_condition=2), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"order: found \[0, 0, 1\], expected each of 0 to 2 once"):
        MADE(3, 2, [5], [0, 0, 1])
    with pytest.raises(ValueError, match=r"shape: found \(3,\), expected \(C, H, W\) of images, or \(H, W\)"):
        PixelCNN((3,), 2)
    with pytest.raises(ValueError, match=r"width: found 8, expected a multiple of 6, as data have 3 channels"):
        GatedPixelCNN((3, 2, 2), 2, 8)
    with pytest.raises(ValueError, match=r"width: found 6, expected a multiple of 4, num_heads for each channel"):
        PixelSNAIL((1, 2, 2), 2, 6, num_heads=4)
