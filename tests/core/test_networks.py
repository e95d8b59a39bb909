"""Networks keep leading dimensions: folding them changes no value."""

import pytest
import torch
from torch import nn

from ppvae.networks import Fold, convolutional_decoder, convolutional_encoder, hidden_layers, mlp, output_bias


@pytest.mark.parametrize(
    ("network", "event"),
    [
        (mlp(5, [7], 3), (5,)),
        (convolutional_encoder((2, 9, 6), [4, 8], 3), (2, 9, 6)),
        (convolutional_decoder(3, [8, 4], (2, 9, 6)), (3,)),
    ],
)
def test_particles_go_through_as_one_by_one(network, event):
    x = torch.randn(2, 3, 4, *event)
    one_by_one = torch.stack([torch.stack([network(rows) for rows in particles]) for particles in x])
    torch.testing.assert_close(network(x), one_by_one)
    torch.testing.assert_close(network(x[0, 0, 0]), network(x)[0, 0, 0])


def test_batch_norms_are_over_all_leading_dimensions_while_training():
    layers = hidden_layers(5, [7], nn.Identity, batch_norm=True)
    x = torch.randn(4, 30, 5)
    y = layers(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 1), correction=0), torch.ones(7), atol=1e-3, rtol=0)
    layers.eval()
    torch.testing.assert_close(layers(x)[:1, :2], layers(x[:1, :2]))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (2, 5, 5)])
def test_decoder_gives_back_the_encoders_shape(shape):
    code = convolutional_encoder(shape, [4, 8], 6)(torch.randn(2, *shape))
    assert convolutional_decoder(6, [8, 4], shape)(code).shape == (2, *shape)


def test_output_bias_is_the_last_layers():
    network = mlp(5, [7], 3)
    assert output_bias(network) is network[-1].bias
    with pytest.raises(ValueError, match="found no layer with a bias"):
        output_bias(Fold(nn.Linear(2, 2, bias=False), event_dim=1))
