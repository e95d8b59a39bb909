"""Generated polyphony: a model whose log p(x) is the truth, and whose phrases have the chords they should."""

import itertools

import torch

from ppvae.models import polyphony
from ppvae.models.sequences.generated_polyphony import CHORDS, FOLLOWS, HELD

STEPS = 3


def by_summation(truth, x):
    """log p(x), by a sum over all sequences of chords."""
    initial, transition = truth.initial_logits.softmax(-1), truth.transition_logits.softmax(-1)
    total = 0.0
    for chords in itertools.product(range(len(CHORDS)), repeat=STEPS + 1):
        p = initial[chords[0]]
        for t in range(STEPS):
            on = truth.outputs[chords[t + 1]].sigmoid()
            p = p * transition[chords[t], chords[t + 1]] * torch.where(x[:, t] == 1, on, 1 - on).prod(-1)
        total = total + p
    return total.log()


def test_log_prob_is_the_sum_over_all_chords(float64):
    truth = polyphony().double()
    torch.manual_seed(0)
    x = truth.sample(truth.example.double().expand(6, -1, -1)[:, :STEPS])
    torch.testing.assert_close(truth.log_prob(x), by_summation(truth, x))


def test_chords_follow_as_often_as_they_should():
    truth = polyphony()
    transition = truth.transition_logits.softmax(-1)
    torch.testing.assert_close(transition.sum(-1), torch.ones(len(CHORDS)))
    torch.testing.assert_close(transition.diagonal(), torch.full((len(CHORDS),), HELD))
    for i, chord in enumerate(CHORDS):
        for j, other in enumerate(CHORDS):
            if chord != other:
                assert abs(transition[i, j] - (1 - HELD) * FOLLOWS[chord].get(other, 0.0)) < 1e-6


def test_phrases_sound_the_notes_of_a_known_mixture_of_chords():
    """At the first step, each note as often as the chords that may follow the first have it."""
    truth = polyphony()
    torch.manual_seed(0)
    x = truth.sample(truth.example.expand(4000, -1, -1)[:, :1])[:, 0]
    expected = truth.transition_logits.softmax(-1)[0] @ truth.outputs.sigmoid()
    assert ((x.mean(0) - expected).abs() < 4.5 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_nothing_of_it_is_learned():
    assert not any(p.requires_grad for p in polyphony().parameters())
