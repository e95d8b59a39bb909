"""Lengths of sequences: whole numbers within what is there, of whatever type; others are refused by name."""

import pyro.distributions as dist
import pytest
import torch

import ppvae
from ppvae.models import (
    DeepMarkov,
    HiddenMarkov,
    LinearGaussianStateSpace,
    MixtureDensityRNN,
    RecurrentStateSpace,
    StateSpace,
)

SEQUENCES = {
    "deep Markov": lambda: DeepMarkov(3, 2, [8], "gaussian"),
    "Kalman": lambda: LinearGaussianStateSpace(3, 2),
    "hidden Markov": lambda: HiddenMarkov(3, 3),
    "recurrent": lambda: RecurrentStateSpace(3, 2),
    "mixture density": lambda: MixtureDensityRNN(3),
}
QUIET = {"seed": 0, "progress": False}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("row", [0, 29])
@pytest.mark.parametrize("length", [7, -1, 2.5])
def test_others_are_refused_by_name(name, row, length):
    """Among the few rows that a pair is checked on, and after them."""
    pair, x, lengths = SEQUENCES[name](), torch.randn(30, 6, 3), torch.full((30,), type(length)(3))
    lengths[row] = length
    expected = r"expected \[B\], for each row a whole number from 0 to 6"
    with pytest.raises((ppvae.ContractError, ValueError), match=rf"lengths: found {length}, {expected}"):
        ppvae.elbo(pair, (x, lengths), **QUIET)


@pytest.mark.parametrize("name", SEQUENCES)
def test_one_is_needed_for_each_row(name):
    with pytest.raises(ppvae.ContractError, match=r"lengths: found the shape \[., 1\], expected \[B\], for each row"):
        ppvae.elbo(SEQUENCES[name](), (torch.randn(2, 6, 3), torch.ones(2, 1)), **QUIET)


@pytest.mark.parametrize("name", SEQUENCES)
def test_whole_numbers_may_be_floating(name):
    torch.manual_seed(0)
    pair, x, lengths = SEQUENCES[name](), torch.randn(3, 6, 3), torch.tensor([6, 0, 4])
    whole, floating = (ppvae.elbo(pair, (x, n), **QUIET) for n in (lengths, lengths.float()))
    assert torch.equal(whole.estimate, floating.estimate)


BITS = {
    "deep Markov": lambda: DeepMarkov(3, 2, [8]),
    "hidden Markov": lambda: HiddenMarkov(3, 3, "bernoulli"),
    "recurrent": lambda: RecurrentStateSpace(3, 2, likelihood="bernoulli"),
}


def value_and_gradient(make, x, lengths):
    torch.manual_seed(0)
    pair = make()
    value, surrogate = ppvae.ELBO()(pair, (x, lengths))
    surrogate.sum().backward()
    return value.detach(), [p.grad for p in pair.parameters() if p.grad is not None]


@pytest.mark.parametrize("padding", [-1.0, -9999.0, 1e30])
@pytest.mark.parametrize(
    "make",
    [*SEQUENCES.values(), *BITS.values()],
    ids=[*SEQUENCES, *(f"{name}, bits" for name in BITS)],
)
def test_rows_may_be_padded_with_any_number(make, padding):
    """In single precision: neither what networks make of it, nor a gradient, overflows."""
    x, lengths = torch.rand(3, 6, 3).round(), torch.tensor([6, 1, 4])
    past = (torch.arange(6) >= lengths[:, None]).unsqueeze(-1)
    padded = torch.where(past, padding, x)
    make().check((padded, lengths))
    (value, gradients), (zeros, expected) = (value_and_gradient(make, t, lengths) for t in (padded, x * ~past))
    torch.testing.assert_close(value, zeros)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("make", [SEQUENCES["deep Markov"], SEQUENCES["recurrent"], BITS["deep Markov"]])
def test_filters_take_rows_that_are_padded_with_any_number(make):
    x, lengths, pair = torch.rand(3, 6, 3).round(), torch.tensor([6, 1, 4]), make()
    past = (torch.arange(6) >= lengths[:, None]).unsqueeze(-1)
    padded, zeros = (
        ppvae.log_evidence(pair, (t, lengths), "particle filter", num_particles=160, **QUIET)
        for t in (torch.where(past, -9999.0, x), x * ~past)
    )
    torch.testing.assert_close(padded.estimate, zeros.estimate)


class Positive(StateSpace):
    """Numbers above zero, of which zero is none."""

    def __init__(self):
        super().__init__()
        self.example = torch.ones(1, 4, 1)

    def prior(self):
        return dist.Normal(torch.zeros(1), 1.0).to_event(1)

    def transition(self, z):
        return dist.Normal(z, 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Gamma(2.0, z.exp()).to_event(1)

    def posterior(self, x, lengths=None):
        return lambda t, z: dist.Normal(x[:, t].log(), 1.0).to_event(1)


def test_what_stands_past_the_end_is_inside_the_support():
    x, lengths = torch.rand(3, 4, 1) + 0.1, torch.tensor([4, 1, 2])
    past = (torch.arange(4) >= lengths[:, None]).unsqueeze(-1)
    found = [ppvae.elbo(Positive(), (torch.where(past, with_, x), lengths), **QUIET) for with_ in (1.0, 0.0, -1.0)]
    for other in found[1:]:
        torch.testing.assert_close(other.estimate, found[0].estimate)
