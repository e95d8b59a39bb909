"""Networks keep leading dimensions: folding them changes no value."""

import pytest
import torch
from torch import nn

from ppvae.networks import Fold, convolutional_decoder, convolutional_encoder, mlp, output_bias


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


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (2, 5, 5)])
def test_decoder_gives_back_the_encoders_shape(shape):
    code = convolutional_encoder(shape, [4, 8], 6)(torch.randn(2, *shape))
    assert convolutional_decoder(6, [8, 4], shape)(code).shape == (2, *shape)


def test_output_bias_is_the_last_layers():
    network = mlp(5, [7], 3)
    assert output_bias(network) is network[-1].bias
    with pytest.raises(ValueError, match="found no layer with a bias"):
        output_bias(Fold(nn.Linear(2, 2, bias=False), event_dim=1))
