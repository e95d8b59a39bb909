"""What a module is for a while, and what it is again afterwards."""

from torch import nn

from ppvae.mode import frozen


def test_parameters_are_frozen_for_a_while_and_learn_again_after_an_error():
    network = nn.Linear(2, 3)
    network.bias.requires_grad_(False)
    try:
        with frozen(network):
            within = [p.requires_grad for p in network.parameters()]
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert within == [False, False]
    assert (network.weight.requires_grad, network.bias.requires_grad) == (True, False)
