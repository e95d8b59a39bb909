"""Lengths of sequences: whole numbers within what is there, of whatever type; others are refused by name."""

import pytest
import torch

import ppvae
from ppvae.models import DeepMarkov, HiddenMarkov, LinearGaussianStateSpace, MixtureDensityRNN, RecurrentStateSpace

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
