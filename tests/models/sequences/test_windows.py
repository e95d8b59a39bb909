"""Windows of sequences: pieces of what is there, from anywhere, on which a model learns its transition."""

import numpy as np
import pytest
import torch

import ppvae
from ppvae.models import LinearGaussianStateSpace, RecurrentStateSpace, Windows

LENGTHS = torch.tensor([12, 3, 7, 12])


def counting(num_rows=4, num_steps=12):
    """Each row counts its steps; -1 past its length."""
    x = torch.arange(float(num_steps)).expand(num_rows, num_steps)
    return torch.where(x < LENGTHS[:, None], x, -1.0)[..., None]


def test_windows_are_runs_of_steps_within_each_length():
    torch.manual_seed(0)
    starts = []
    for _ in range(300):
        x, lengths = Windows(5)((counting(), LENGTHS))
        assert lengths.tolist() == [5, 3, 5, 5]
        for row, length in zip(x[..., 0], lengths, strict=True):
            assert torch.equal(row[:length], row[0] + torch.arange(float(length)))
            assert row[0] >= 0
        starts.append(x[:, 0, 0])
    seen = [set(column.tolist()) for column in torch.stack(starts).T]
    assert seen == [set(map(float, range(n))) for n in (8, 1, 3, 8)]


def test_without_lengths_and_where_they_are_short_sequences_are_whole():
    x = torch.randn(3, 6, 2)
    assert torch.equal(Windows(9)(x), x)
    assert Windows(4)(x).shape == (3, 4, 2)
    whole, lengths = Windows(12)((counting(), LENGTHS))
    assert torch.equal(whole, counting())
    assert torch.equal(lengths, LENGTHS)


def test_all_that_has_steps_is_cut_alike_in_a_batch_of_any_kind():
    """Actions and other arguments; what has no steps, and None, stay."""
    x, actions, row = counting(), counting().expand(-1, -1, 3), torch.arange(4)
    windows = Windows(5)({"x": x, "lengths": LENGTHS, "actions": actions, "row": row, "none": None})
    assert list(windows) == ["x", "lengths", "actions", "row", "none"]
    assert windows["lengths"].tolist() == [5, 3, 5, 5]
    assert torch.equal(windows["actions"], windows["x"].expand(-1, -1, 3))
    assert windows["row"] is row
    cut, none, acted = Windows(5)((x[[0, 3]], None, actions[[0, 3]]))
    assert none is None
    assert cut.shape == (2, 5, 1)
    assert torch.equal(acted, cut.expand(-1, -1, 3))


@pytest.mark.parametrize("dict_of", [True, False])
def test_pairs_with_actions_train_on_windows(dict_of):
    names = ("x", "lengths", "actions")
    batch = (torch.randn(8, 7, 3), torch.full((8,), 6), torch.randn(8, 7, 2))
    pair = RecurrentStateSpace(3, 2, num_actions=2)
    data = dict(zip(names, batch, strict=True)) if dict_of else batch
    found = ppvae.fit(pair, data, steps=3, transform=Windows(4), progress=False)
    assert np.isfinite(found.history["bound"]).all()


@pytest.mark.parametrize("second", [torch.tensor([0, 9, 3, 2]), torch.tensor([13, 1, 1, 1]), torch.full((4,), 2.5)])
def test_what_cannot_be_lengths_is_not_taken_for_them(second):
    """Labels and targets that come second in a tuple; a dict says what they are."""
    with pytest.raises(ValueError, match=r"data\[1\]: found values from .* lengths of sequences, .* pass a dict"):
        Windows(5)((counting(), second))
    windows = Windows(5)({"x": counting(), "labels": second})
    assert windows["labels"] is second
    assert windows["x"].shape == (4, 5, 1)


def test_sequences_without_a_step_may_be_called_so():
    lengths = torch.tensor([0, 9, 3, 12])
    windows = Windows(5)({"x": counting(), "lengths": lengths})
    assert windows["lengths"].tolist() == [0, 5, 3, 5]


def test_actions_that_come_second_are_cut():
    whole = torch.randn(3, 12, 2)
    x, actions = Windows(5)((whole, 2 * whole))
    assert torch.equal(actions, 2 * x)


def test_no_length_is_refused_by_name():
    with pytest.raises(ValueError, match="length: found 0, expected at least 1"):
        Windows(0)


@pytest.mark.slow(20)
def test_a_transition_is_learned_from_windows(float64):
    """Of sequences in their stationary state, by windows of a tenth: nearly as well as the truth explains new ones."""
    torch.manual_seed(0)
    truth = LinearGaussianStateSpace(2, 1, "exact").requires_grad_(False)
    x = truth.sample(truth.examples(200)[:, :1].expand(-1, 100, -1))
    train, test = x[:150], x[150:]
    pair = LinearGaussianStateSpace(2, 1, "exact")
    before = pair.log_prob(test).mean().item()
    ppvae.fit(pair, train, steps=400, batch_size=50, lr=0.02, transform=Windows(10), seed=0, progress=False)
    after, best = pair.log_prob(test).mean().item(), truth.log_prob(test).mean().item()
    assert best - after < 0.05 * (best - before)
