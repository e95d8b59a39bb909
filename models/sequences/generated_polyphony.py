"""Generated polyphony: a known model of chords and the notes that sound in them, in place of recorded music."""

import torch

from ppvae.models.sequences.hidden_markov import HiddenMarkov

LOWEST, NUM_NOTES = 48, 36
"""The lowest note as MIDI counts them, a C, and how many there are: three octaves."""

CHORDS = {"I": (0, 4, 7), "ii": (2, 5, 9), "IV": (5, 9, 0), "V": (7, 11, 2), "vi": (9, 0, 4)}
"""Pitch classes of the chords in C major, the root first."""

FOLLOWS = {
    "I": {"ii": 0.15, "IV": 0.30, "V": 0.35, "vi": 0.20},
    "ii": {"IV": 0.20, "V": 0.80},
    "IV": {"I": 0.35, "ii": 0.15, "V": 0.50},
    "V": {"I": 0.75, "vi": 0.25},
    "vi": {"ii": 0.45, "IV": 0.40, "V": 0.15},
}
"""Which chord comes after each, and how often."""

HELD = 0.75
"""How often a chord goes on for another step."""

SCALE = (0, 2, 4, 5, 7, 9, 11)
BASS, OF_CHORD, PASSING, FOREIGN = 0.9, 0.5, 0.04, 0.005
"""How often notes sound: a chord's root in the lowest octave, its other notes, others of the scale, and the rest."""


def polyphony() -> HiddenMarkov:
    """Phrases in C major whose model is known: `pair.sample` draws them, and `pair.log_prob` is the truth.

    A hidden Markov model of five chords, each held for four steps in the mean; at each step a chord sounds each of 36
    notes, or does not, independently of the others. What a model of such phrases lacks of the true log p(x) is its own
    fault, which real music cannot show.

    It is no music that anyone wrote: voices do not lead, and there is no meter.

    Example:
        >>> truth = polyphony()
        >>> phrases = truth.sample((torch.zeros(4, 32, 36), torch.tensor([32, 20, 24, 32])))
        >>> phrases.shape
        torch.Size([4, 32, 36])
    """
    pair = HiddenMarkov(len(CHORDS), NUM_NOTES, "bernoulli")
    after = torch.tensor([[FOLLOWS[chord].get(other, 0.0) for other in CHORDS] for chord in CHORDS])
    notes = torch.tensor([[_how_often(LOWEST + i, chord) for i in range(NUM_NOTES)] for chord in CHORDS.values()])
    state = {
        "initial_logits": torch.eye(len(CHORDS))[0].log(),  # the first chord is drawn from those that follow I
        "transition_logits": (HELD * torch.eye(len(CHORDS)) + (1 - HELD) * after).log(),
        "outputs": notes.logit(),
    }
    pair.load_state_dict(state)
    return pair.requires_grad_(False)


def _how_often(note: int, chord: tuple[int, ...]) -> float:
    """How often a note sounds in a chord."""
    pitch = note % 12
    if pitch == chord[0] and note < LOWEST + 12:
        return BASS
    if pitch in chord:
        return OF_CHORD
    return PASSING if pitch in SCALE else FOREIGN
