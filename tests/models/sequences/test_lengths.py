"""Lengths of sequences: whole numbers within what is there, of whatever type; others are refused by name."""

import pytest
import torch

import ppvae
from ppvae.models import DeepMarkov, HiddenMarkov, LinearGaussianStateSpace, MixtureDensityRNN, RecurrentStateSpace
from ppvae.simulation import simulate

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


def value_and_gradient(make, x, lengths):
    torch.manual_seed(0)
    pair = make()
    value, surrogate = ppvae.ELBO()(pair, (x, lengths))
    surrogate.sum().backward()
    return value.detach(), [p.grad for p in pair.parameters() if p.grad is not None]


@pytest.mark.parametrize("padding", [-1.0, -9999.0])
@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
def test_rows_may_be_padded_with_large_numbers(make, padding):
    """In single precision, too: a guide's network does not see them."""
    x, lengths = torch.rand(3, 6, 3).round(), torch.tensor([6, 1, 4])
    past = (torch.arange(6) >= lengths[:, None]).unsqueeze(-1)
    padded = torch.where(past, padding, x)
    make().check((padded, lengths))
    (value, gradients), (zeros, expected) = (value_and_gradient(make, t, lengths) for t in (padded, x * ~past))
    torch.testing.assert_close(value, zeros)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("make", [SEQUENCES["deep Markov"], SEQUENCES["recurrent"]])
def test_filters_take_rows_that_are_padded_with_large_numbers(make):
    x, lengths, pair = torch.rand(3, 6, 3).round(), torch.tensor([6, 1, 4]), make()
    past = (torch.arange(6) >= lengths[:, None]).unsqueeze(-1)
    padded, zeros = (
        ppvae.log_evidence(pair, (t, lengths), "particle filter", num_particles=160, **QUIET)
        for t in (torch.where(past, -9999.0, x), x * ~past)
    )
    torch.testing.assert_close(padded.estimate, zeros.estimate)


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_with_lengths_are_simulated(make):
    x, lengths = torch.rand(3, 6, 3).round(), torch.tensor([6, 1, 4])
    (simulated, same), _ = simulate(make(), (x, lengths))
    assert torch.equal(same, lengths)
    assert simulated.shape == x.shape
    assert (simulated[0] != x[0]).all()
